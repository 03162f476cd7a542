"""Hugging Face tensors to Megatron's shards and back, and what a directory may hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainers.errors import CheckpointInvalid, ModelInvalid, StorageFailed
from trainers.megatron.hf.config import read_hf_config
from trainers.megatron.hf.export import export_hf
from trainers.megatron.hf.layout import hf_shapes, layout, shard, unshard
from trainers.megatron.hf.load import load_hf
from trainers.megatron.hf.target import OWNER

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "dtype": "float32",
}


def write(directory: Path, **changes: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    return directory


def write_weights(directory: Path, **changes: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = hf_shapes(read_hf_config(write(directory, **changes)))
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors")
    return tensors


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_sharding_and_gathering_gives_every_tensor_back_bit_for_bit(
    architecture: str, tied: bool, tp_size: int, tmp_path: Path
) -> None:
    tensors = write_weights(tmp_path, architectures=[architecture], tie_word_embeddings=tied)
    model = read_hf_config(tmp_path)
    found: dict[str, torch.Tensor] = {}
    for entry in layout(model):
        parts = [tensors[name] for name in entry.hf]
        shards = [shard(entry, parts, model, rank=rank, size=tp_size, padded_vocab_size=128) for rank in range(tp_size)]
        found |= zip(entry.hf, unshard(entry, shards, model), strict=True)
    assert found.keys() == tensors.keys()
    assert ("lm_head.weight" in found) is not tied
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name


def test_query_heads_stand_before_the_key_and_value_of_their_group(tmp_path: Path) -> None:
    model = read_hf_config(write(tmp_path))
    entry = next(entry for entry in layout(model) if entry.megatron.endswith("linear_qkv.weight"))
    q, k, v = (torch.full((rows, 24), value) for rows, value in ((32, 1.0), (16, 2.0), (16, 3.0)))
    whole = shard(entry, [q, k, v], model, padded_vocab_size=128)
    assert whole[:, 0].reshape(-1, 8)[:, 0].tolist() == [1, 1, 2, 3, 1, 1, 2, 3]


def _parameters(directory: Path) -> dict[str, torch.nn.Parameter]:
    model = read_hf_config(directory)
    shapes = hf_shapes(model)
    return {
        entry.megatron: torch.nn.Parameter(
            torch.zeros_like(
                shard(
                    entry,
                    [torch.zeros(shapes[name]) for name in entry.hf],
                    model,
                    padded_vocab_size=128,
                )
            )
        )
        for entry in layout(model)
    }


def _load(directory: Path) -> None:
    load_hf(read_hf_config(directory), _parameters(directory), padded_vocab_size=128)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = write_weights(tmp_path)
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelInvalid, match=r"lack model\.norm\.weight"):
        _load(tmp_path)


def test_a_tensor_that_the_architecture_has_not_is_named(tmp_path: Path) -> None:
    tensors = write_weights(tmp_path)
    save_file(tensors | {"model.layers.0.extra.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelInvalid, match=r"model\.layers\.0\.extra\.weight"):
        _load(tmp_path)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    tensors = write_weights(tmp_path)
    save_file(tensors | {"model.norm.weight": torch.zeros(7)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelInvalid, match=r"model\.norm\.weight has shape \(7,\).*\(24,\)"):
        _load(tmp_path)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"model\.safetensors is missing"):
        _load(write(tmp_path))


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    write_weights(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelInvalid, match="cannot be read"):
        _load(tmp_path)


def test_an_unknown_architecture_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"MambaForCausalLM is not known; known are LlamaForCausalLM, .*Qwen3"):
        read_hf_config(write(tmp_path, architectures=["MambaForCausalLM"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window = True"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"num_hidden_layers": None}, "num_hidden_layers must be a positive integer"),
        ({"rope_parameters": {"rope_theta": 10000.5}}, "rope_theta = 10000.5 is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_parameters": None}, "'yarn' is not supported"),
    ],
)
def test_what_the_trainer_cannot_compute_is_refused_by_name(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelInvalid, match=message):
        read_hf_config(write(tmp_path, **changes))


def test_a_config_of_before_transformers_5_is_understood(tmp_path: Path) -> None:
    changes = {"rope_parameters": None, "dtype": None, "rope_theta": 500000.0, "torch_dtype": "bfloat16"}
    model = read_hf_config(write(tmp_path, **changes))
    assert (model.rope_theta, model.dtype, model.rope_scaling) == (500000, "bfloat16", None)


def test_an_export_holds_the_weights_in_the_configs_dtype_and_the_tokenizers_files(tmp_path: Path) -> None:
    tensors = write_weights(tmp_path / "hf", dtype="bfloat16")
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    target = export_hf(read_hf_config(tmp_path / "hf"), iter(tensors.items()), tmp_path / "out" / "export")
    found = load_file(target / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor.to(torch.bfloat16)) for name, tensor in tensors.items())
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_many_files_with_an_index_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = write_weights(tmp_path / "hf")
    monkeypatch.setattr("trainers.megatron.hf.export.FILE_BYTES", 5000)
    target = export_hf(read_hf_config(tmp_path / "hf"), iter(tensors.items()), tmp_path / "export")
    assert len(list(target.glob("model-*-of-*.safetensors"))) > 2
    parameters = _parameters(target)
    load_hf(read_hf_config(target), parameters, padded_vocab_size=128)
    assert torch.equal(parameters["decoder.final_layernorm.weight"], tensors["model.norm.weight"])


def test_an_export_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    tensors = write_weights(tmp_path / "hf")
    model = read_hf_config(tmp_path / "hf")
    target = export_hf(model, iter(tensors.items()), tmp_path / "out" / "export", run_id="one")
    (target / "stale").write_text("")
    export_hf(model, iter(tensors.items()), target, run_id="one")
    assert not (target / "stale").exists()
    assert [path.name for path in target.parent.iterdir()] == ["export"]


def test_an_export_replaces_nothing_but_what_its_own_run_exported(tmp_path: Path) -> None:
    tensors = write_weights(tmp_path / "hf")
    model = read_hf_config(tmp_path / "hf")

    def refused(target: Path, run_id: str | None) -> str:
        left, before = iter(tensors.items()), sorted(target.iterdir()) if target.is_dir() else None
        with pytest.raises(CheckpointInvalid) as caught:
            export_hf(model, left, target, run_id=run_id)
        assert list(left) == []
        assert before == (sorted(target.iterdir()) if target.is_dir() else None)
        return str(caught.value)

    assert "already holds files that no run exported" in refused(tmp_path / "hf", "one")
    assert "already holds files that no run exported" in refused(tmp_path, "one")
    target = export_hf(model, iter(tensors.items()), tmp_path / "one", run_id="one")
    assert "already holds the export of run one" in refused(target, "two")
    assert "already holds the export of run one" in refused(target, None)
    assert "no run exported" in refused(export_hf(model, iter(tensors.items()), tmp_path / "nobodys"), None)
    (target / OWNER).write_text("[]")
    assert "whose owner cannot be read" in refused(target, "one")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tmp_path / "file", "one")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    export_hf(model, iter(tensors.items()), tmp_path / "link", run_id="one")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_an_export_of_an_exported_model_is_its_own_runs(tmp_path: Path) -> None:
    tensors = write_weights(tmp_path / "hf")
    first = export_hf(read_hf_config(tmp_path / "hf"), iter(tensors.items()), tmp_path / "one", run_id="one")
    second = export_hf(read_hf_config(first), iter(tensors.items()), tmp_path / "two")
    assert not (second / OWNER).exists()


def test_an_export_that_cannot_be_written_names_the_directory_and_still_reads_all_tensors(tmp_path: Path) -> None:
    tensors = write_weights(tmp_path / "hf")
    (tmp_path / "file").write_text("in the way")
    left = iter(tensors.items())
    with pytest.raises(StorageFailed, match="file/export"):
        export_hf(read_hf_config(tmp_path / "hf"), left, tmp_path / "file" / "export")
    assert list(left) == []
