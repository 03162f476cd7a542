"""What each family's config says, how its weights are split, and what is written of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.e2e.family_models import COMMON, MODELS
from trainers.errors import ModelInvalid
from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.hf.config import read_hf_config
from trainers.megatron.hf.export import export_hf
from trainers.megatron.hf.layout import Position, hf_shapes, layout, shard, unshard
from trainers.megatron.hf.options import architecture_options, split_over_tensor_parallel
from trainers.megatron.hf.safetensors_file import SafetensorsFile, Slot


def read(name: str, directory: Path, **changes: Any) -> HFModel:
    family, shape = MODELS[name]
    directory.mkdir(parents=True, exist_ok=True)
    config = getattr(transformers, f"{family}Config")(**(COMMON | shape))
    config.architectures = [f"{family}ForCausalLM"]
    config.save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return read_hf_config(directory)


def random_weights(model: HFModel) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in hf_shapes(model).items()}


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", list(MODELS))
def test_sharding_and_gathering_gives_every_tensor_back(name: str, size: int, tmp_path: Path) -> None:
    model = read(name, tmp_path)
    weights = random_weights(model)
    assert all(count % size == 0 for count in split_over_tensor_parallel(model).values())
    for entry in layout(model):
        tensors = [weights[each] for each in entry.hf]
        shards = [shard(entry, tensors, model, rank=rank, size=size, padded_vocab_size=128) for rank in range(size)]
        for each, whole in zip(entry.hf, unshard(entry, shards, model), strict=True):
            assert torch.equal(whole, weights[each]), each


def test_experts_are_split_over_ranks_of_their_own(tmp_path: Path) -> None:
    position = Position(tp_rank=1, tp_size=4, expert_tp_rank=0, expert_tp_size=2)
    entries = {entry.megatron: entry for entry in layout(read("deepseek-v3", tmp_path))}
    assert position.of(entries["decoder.layers.1.mlp.experts.local_experts.7.linear_fc1.weight"]) == (0, 2)
    assert position.of(entries["decoder.layers.1.mlp.shared_experts.linear_fc1.weight"]) == (1, 4)


def test_a_fused_gate_and_up_projection_is_split_half_by_half(tmp_path: Path) -> None:
    model = read("glm4", tmp_path)
    entry = next(entry for entry in layout(model) if entry.megatron.endswith("0.mlp.linear_fc1.weight"))
    rows = torch.arange(128.0)[:, None].expand(128, 32)
    found = shard(entry, [rows], model, rank=1, size=2, padded_vocab_size=128)
    assert found[:, 0].tolist() == [*range(32, 64), *range(96, 128)]


def test_layers_without_experts_are_those_that_the_config_names(tmp_path: Path) -> None:
    assert architecture_options(read("qwen3-moe", tmp_path / "a"))["moe_layer_freq"] == "[1]*1+[0]*1+[1]*2"
    assert architecture_options(read("moonlight", tmp_path / "b"))["moe_layer_freq"] == "[0]*1+[1]*3"
    every_second = read("qwen3-moe", tmp_path / "c", decoder_sparse_step=2, mlp_only_layers=[])
    assert architecture_options(every_second)["moe_layer_freq"] == "[0]*1+[1]*1+[0]*1+[1]*1"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("deepseek-v3", {"rope_interleave": False}, "rope_interleave = False is not supported"),
        ("deepseek-v3", {"scoring_func": "softmax"}, "scoring_func = 'softmax'"),
        ("deepseek-v3", {"norm_topk_prob": False}, "norm_topk_prob = False"),
        ("deepseek-v3", {"topk_group": 4}, "topk_group = 4 .* must be half of that"),
        ("deepseek-v3", {"attention_bias": True}, "attention_bias = True"),
        ("deepseek-v3", {"kv_lora_rank": None}, "kv_lora_rank must be a positive integer"),
        ("deepseek-v3", {"quantization_config": {"fmt": "e4m3"}}, "quantization_config .* copy in bfloat16"),
        ("deepseek-v3", {"rope_parameters": {"rope_type": "yarn"}}, "'yarn' needs a number as factor"),
        ("glm4.5", {"n_routed_experts": 0}, "n_routed_experts must be a positive integer, not 0"),
        ("glm4.5", {"use_qk_norm": "yes"}, "use_qk_norm must be true or false"),
        ("llama3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn' is not supported"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelInvalid, match=message):
        read(name, tmp_path, **changes)


def test_layers_that_predict_further_tokens_are_exported_as_they_were(tmp_path: Path) -> None:
    model = read("glm4.5", tmp_path / "hf", dtype="bfloat16")
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    weights = {name: tensor.bfloat16() for name, tensor in random_weights(model).items()}
    weights[bias] = torch.randn(8)
    further = {"model.layers.4.eh_proj.weight": torch.randn(3, 5), "model.layers.4.norm.weight": torch.ones(2).half()}
    save_file(weights | further, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    trained = {name: tensor.float() for name, tensor in weights.items()}
    found = load_file(export_hf(model, reversed(trained.items()), tmp_path / "out") / "model.safetensors")
    assert found.keys() == (weights | further).keys()
    for name, tensor in (weights | further).items():
        assert found[name].dtype is tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_an_export_that_lacks_a_tensor_is_not_left_behind(tmp_path: Path) -> None:
    model = read("qwen3", tmp_path / "hf")
    weights = random_weights(model)
    del weights["model.norm.weight"]
    with pytest.raises(RuntimeError, match=r"lacks \['model.norm.weight'\]"):
        export_hf(model, iter(weights.items()), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_safetensors_file_may_be_written_in_any_order(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4),
        "scalar": torch.tensor(2.5),
        "half": torch.randn(5).bfloat16(),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(4, 6).T,
    }
    file = SafetensorsFile(
        tmp_path / "x.safetensors", {name: Slot(tuple(each.shape), each.dtype) for name, each in tensors.items()}
    )
    for name in sorted(tensors, reverse=True):
        file.write(name, tensors[name])
    assert file.missing == []
    file.close()
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_tensor_of_another_shape_or_dtype_is_not_written(tmp_path: Path) -> None:
    file = SafetensorsFile(tmp_path / "x.safetensors", {"a": Slot((2,), torch.float32), "b": Slot((2,), torch.float32)})
    with pytest.raises(ValueError, match=r"a is torch\.float32 \(3,\), not torch\.float32 \(2,\)"):
        file.write("a", torch.zeros(3))
    with pytest.raises(ValueError, match=r"b is torch\.bfloat16"):
        file.write("b", torch.zeros(2).bfloat16())
    file.close()
