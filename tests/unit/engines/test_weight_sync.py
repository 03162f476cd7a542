"""What is decided about weights before any of them travels, and what becomes of engines when one of them hangs."""

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from engines.checkpoint import TensorIndex, tensor_index
from engines.errors import WeightSyncError
from engines.protocols import TensorMeta
from engines.sglang.weights import parse_version
from trainers.weights import collective
from trainers.weights.buckets import Bucket, buckets
from trainers.weights.collective import CollectiveSender

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8)


def unpack(bucket: Bucket) -> dict[str, torch.Tensor]:
    """As SGLang does it: each tensor a view of its run of bytes, one after the other."""
    tensors: dict[str, torch.Tensor] = {}
    offset = 0
    for meta in bucket.metas:
        dtype = getattr(torch, meta.dtype)
        end = offset + dtype.itemsize * torch.Size(meta.shape).numel()
        tensors[meta.name] = bucket.flat[offset:end].view(dtype).reshape(meta.shape)
        offset = end
    assert offset == bucket.flat.nbytes
    return tensors


@given(
    shapes=st.lists(st.tuples(st.lists(st.integers(1, 7), max_size=3), st.sampled_from(DTYPES)), max_size=12),
    bucket_bytes=st.integers(1, 400),
)
def test_every_tensor_arrives_once_and_whole_in_bounded_buckets(
    shapes: list[tuple[list[int], torch.dtype]], bucket_bytes: int
) -> None:
    tensors = {
        f"w{i}": torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(i)).to(dtype)
        for i, (shape, dtype) in enumerate(shapes)
    }
    packed = list(buckets(tensors.items(), bucket_bytes=bucket_bytes, device="cpu"))
    arrived = [pair for bucket in packed for pair in unpack(bucket).items()]
    assert len(arrived) == len(tensors)
    for name, tensor in arrived:
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])
    for bucket in packed:
        assert bucket.flat.nbytes <= bucket_bytes or len(bucket.metas) == 1


def test_a_transposed_tensor_is_sent_by_its_values() -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T
    (bucket,) = buckets([("w", tensor)], bucket_bytes=100, device="cpu")
    assert torch.equal(unpack(bucket)["w"], tensor)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_file({"a.weight": torch.zeros(2, 3), "lm_head.weight": torch.zeros(4, 3)}, tmp_path / "model-1.safetensors")
    save_file({"b.bias": torch.zeros(5, dtype=torch.bfloat16)}, tmp_path / "model-2.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    return tmp_path


def test_names_and_shapes_are_those_of_all_files_of_a_checkpoint(checkpoint: Path) -> None:
    index = tensor_index(str(checkpoint))
    assert index == TensorIndex(
        {"a.weight": (2, 3), "lm_head.weight": (4, 3), "b.bias": (5,)}, frozenset({"lm_head.weight"})
    )


def test_a_wrong_name_or_shape_or_gap_is_named(checkpoint: Path) -> None:
    index = tensor_index(str(checkpoint))
    assert index is not None
    assert index.complaint(TensorMeta("a.weight", (2, 3), "float32")) is None
    assert index.complaint(TensorMeta("a.weight", (3, 2), "float32")) == (
        "a.weight has shape [3, 2], the model's is [2, 3]"
    )
    assert index.complaint(TensorMeta("c.weight", (1,), "float32")) == "the model has no tensor c.weight"
    assert index.missing(["a.weight"]) == ["b.bias"]  # the tied output layer need not come


def test_layers_that_predict_further_tokens_are_not_trained_and_need_not_come(tmp_path: Path) -> None:
    trained = {f"model.layers.{number}.mlp.weight": torch.zeros(2) for number in range(11)}
    further = {"model.layers.11.eh_proj.weight": torch.zeros(2), "model.layers.12.mlp.weight": torch.zeros(2)}
    save_file(trained | further, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 11, "num_nextn_predict_layers": 2}))
    index = tensor_index(str(tmp_path))
    assert index is not None
    assert index.missing(trained) == []
    assert index.missing(list(trained)[1:]) == ["model.layers.0.mlp.weight"]


def test_a_quantized_checkpoint_says_nothing_about_a_trainers_tensors(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "fp8"}}))
    tensor_index.cache_clear()
    assert tensor_index(str(checkpoint)) is None


@pytest.mark.parametrize(("label", "version"), [("0", 0), ("17", 17), ("default", None), ("mixed", None)])
def test_only_a_number_is_a_weight_version(label: str, version: int | None) -> None:
    assert parse_version(label) == version


class Engine:
    """Notes what it is asked. One that ``hangs`` answers nothing from its first bucket on."""

    num_ranks = 1

    def __init__(self, name: str, model_path: str, *, hangs: bool = False):
        self.name, self.model_path, self.hangs = name, model_path, hangs
        self.asked: list[str] = []
        self.resumed_at: float | None = None

    def __getattr__(self, call: str) -> Any:
        async def answer(*_: Any, **__: Any) -> bool:
            self.asked.append(call)
            if self.hangs and call not in ("pause", "join"):
                await asyncio.Event().wait()
            if call == "resume":
                self.resumed_at = time.monotonic()
            return True

        return answer


class StuckGroup:
    """As gloo's is while a receiver hangs: neither the broadcast ends nor the abort."""

    name = "g"

    def __init__(self) -> None:
        self.freed = threading.Event()

    def broadcast(self, flat: torch.Tensor) -> Any:
        self.freed.wait(30)
        raise RuntimeError("connection closed")

    def abort(self) -> None:
        self.freed.wait(30)


async def test_an_engine_that_hangs_is_named_and_keeps_neither_the_others_paused_nor_the_trainer_waiting(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collective, "_CALL_TIMEOUT_S", 0.5)
    sender, group = CollectiveSender(backend="gloo", device="cpu", host="127.0.0.1"), StuckGroup()

    async def joined(*_: Any) -> Any:
        sender._group = group  # type: ignore[assignment]
        return group

    monkeypatch.setattr(sender, "_joined", joined)
    well, stuck = Engine("engine-0", str(checkpoint)), Engine("engine-1", str(checkpoint), hangs=True)
    try:
        with pytest.raises(WeightSyncError) as failed:
            await sender.send(
                [well, stuck], [("b.bias", torch.zeros(5))], 3, pause_mode="retract", bucket_bytes=64, timeout_s=0.3
            )
        ended = time.monotonic()
    finally:
        group.freed.set()
    assert str(failed.value) == (
        "weight version 3 did not reach engine-0, engine-1: sync.timeout_s = 0.3 s passed after 0 buckets while "
        "loading engine-1; could not be continued and must be replaced: engine-1"
    )
    assert well.asked == ["pause", "load", "leave", "invalidate", "resume"]
    assert well.resumed_at is not None
    assert ended - well.resumed_at > 0.9, "it went on while the three calls to the other were still waited for"
