"""Published models: what a preset says is what transformers builds from the published numbers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from trainers.errors import ConfigInvalid
from trainers.megatron.hf.config import read_hf_config
from trainers.megatron.hf.layout import hf_shapes, layout
from trainers.megatron.hf.options import architecture_options
from trainers.megatron.preset import check_preset, load_preset, preset_names


def written(name: str, directory: Path, **changes: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(load_preset(name).config | changes))
    return directory


def shapes_in_transformers(directory: Path) -> dict[str, tuple[int, ...]]:
    """Of the model that transformers builds from the directory's config, by the names that it is stored under."""
    config = transformers.AutoConfig.from_pretrained(directory)
    found: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        model = getattr(transformers, config.architectures[0])(config)
    for name, tensor in model.state_dict().items():
        # In memory, experts are one tensor for all; on disk each has its own.
        if name.endswith(".experts.gate_up_proj"):
            for expert in range(tensor.shape[0]):
                for part in ("gate_proj", "up_proj"):
                    where = name.replace("gate_up_proj", f"{expert}.{part}.weight")
                    found[where] = (tensor.shape[1] // 2, tensor.shape[2])
        elif name.endswith(".experts.down_proj"):
            for expert in range(tensor.shape[0]):
                found[name.replace("down_proj", f"{expert}.down_proj.weight")] = tuple(tensor.shape[1:])
        else:
            found[name] = tuple(tensor.shape)
    if config.tie_word_embeddings:
        del found["lm_head.weight"]
    return found


def count_from_options(options: dict[str, Any]) -> int:
    """Of parameters, in closed form from Megatron's options alone."""
    hidden, layers, heads = options["hidden_size"], options["num_layers"], options["num_attention_heads"]
    if options.get("multi_latent_attention"):
        rank, plain, turned, value = (
            options[name] for name in ("kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim")
        )
        queries = heads * (plain + turned)
        q_rank = options.get("q_lora_rank")
        attention = hidden * queries if q_rank is None else q_rank * (hidden + 1 + queries)
        attention += hidden * (rank + turned) + rank + rank * heads * (plain + value) + heads * value * hidden
    else:
        width, groups = options["kv_channels"], options["num_query_groups"]
        attention = hidden * width * (2 * heads + 2 * groups)
        attention += width * (heads + 2 * groups) if options["add_qkv_bias"] else 0
        attention += 2 * width if options["qk_layernorm"] else 0
    sandwich = 2 * hidden if options["rotary_interleaved"] else 0  # GLM-4 alone has both
    total = layers * (attention + 2 * hidden + sandwich) + hidden
    total += options["vocab_size"] * hidden * (2 if options["untie_embeddings_and_output_weights"] else 1)
    experts = options.get("num_experts")
    pattern = eval(options["moe_layer_freq"]) if experts else [0] * layers  # an expression, as Megatron reads it
    assert len(pattern) == layers
    for has_experts in pattern:
        if not has_experts:
            total += 3 * hidden * options["ffn_hidden_size"]
            continue
        width = experts * options["moe_ffn_hidden_size"] + options.get("moe_shared_expert_intermediate_size", 0)
        bias = experts if options["moe_router_enable_expert_bias"] else 0
        total += 3 * hidden * width + experts * hidden + bias
    return total


@pytest.mark.parametrize("name", preset_names())
def test_every_tensor_has_the_shape_that_transformers_gives_it(name: str, tmp_path: Path) -> None:
    preset, directory = load_preset(name), written(name, tmp_path)
    expected = shapes_in_transformers(directory)
    assert hf_shapes(read_hf_config(directory)) == expected
    assert sum(map(math.prod, expected.values())) == preset.parameters


@pytest.mark.parametrize("name", preset_names())
def test_the_options_describe_the_model_that_its_config_does(name: str, tmp_path: Path) -> None:
    preset, model = load_preset(name), read_hf_config(written(name, tmp_path))
    assert {key: value for key, value in architecture_options(model).items() if value is not None} == preset.megatron
    assert count_from_options(preset.megatron) == preset.parameters
    check_preset(preset, model)


def test_there_are_presets_of_every_family() -> None:
    names = preset_names()
    assert len(names) >= 25
    assert {load_preset(name).config["architectures"][0] for name in names} == {
        f"{family}ForCausalLM" for family in ("Llama", "Qwen2", "Qwen3", "Qwen3Moe", "Glm4", "Glm4Moe", "DeepseekV3")
    }


def test_no_two_parameters_have_one_name(tmp_path: Path) -> None:
    entries = layout(read_hf_config(written("DeepSeek-V3", tmp_path)))
    assert len({entry.megatron for entry in entries}) == len(entries)
    assert len({name for entry in entries for name in entry.hf}) == sum(len(entry.hf) for entry in entries)


def test_a_config_of_another_size_is_refused_by_the_options_name(tmp_path: Path) -> None:
    model = read_hf_config(written("Qwen3-8B", tmp_path, hidden_size=4032))
    with pytest.raises(ConfigInvalid, match=r"Qwen3-8B has hidden_size = 4096, and .*config\.json says 4032"):
        check_preset(load_preset("Qwen3-8B"), model)


def test_a_config_with_more_than_the_preset_is_refused(tmp_path: Path) -> None:
    model = read_hf_config(written("Qwen3-30B-A3B", tmp_path))
    with pytest.raises(ConfigInvalid, match="Qwen3-8B has"):
        check_preset(load_preset("Qwen3-8B"), model)


def test_an_unknown_preset_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigInvalid, match=r"'Qwen9' is not known; known are .*Qwen3-8B"):
        load_preset("Qwen9")
