"""Weights from Hugging Face to a release checkpoint and back, bit for bit, without holding a model."""

import contextlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.e2e.family_models import MODELS, build_family_model
from tests.e2e.rank_pool import RankPool
from tests.e2e.test_families import EP, ETP, PP, SP, TP, Examine, assert_same_weights, run_config
from trainers.config import RunConfig
from trainers.errors import CheckpointInvalid
from trainers.megatron.hf.config import read_hf_config
from trainers.megatron.hf.layout import hf_shapes
from trainers.megatron.start import Checkpoint, checkpoint_of

pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class Convert:
    """``python -m trainers.megatron.convert`` in a process that has imported everything. Answers with the exit code,
    what it printed, and by how many bytes its own memory grew."""

    arguments: tuple[str, ...]
    config: RunConfig

    def __call__(self, rank: int, world_size: int, init_method: str | None) -> tuple[int, str, int]:
        from trainers.megatron.convert.__main__ import main

        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), _peak() as peak:
            code = main(self.arguments)
        return code, said.getvalue(), peak[0]


@dataclass(frozen=True)
class Compare:
    """Answers with what is wrong, in a tuple: a bare text is how a rank says that it failed."""

    hf: Path
    checkpoint: Path
    other: Path
    config: RunConfig

    def __call__(self, rank: int, world_size: int, init_method: str | None) -> tuple[str]:
        from trainers.megatron.convert.convert import check
        from trainers.megatron.convert.skeleton import skeleton

        model = read_hf_config(self.hf)
        with skeleton(model) as bones, pytest.raises(CheckpointInvalid) as refused:
            check(model, bones, self.checkpoint, self.other)
        return (str(refused.value),)


@contextlib.contextmanager
def _peak() -> Iterator[list[int]]:
    grown, before, ended = [0], _anonymous_bytes(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            grown[0] = max(grown[0], _anonymous_bytes() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield grown
    finally:
        ended.set()
        thread.join()


def _anonymous_bytes() -> int:
    """Without pages of files, which the system gives back as it likes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


def convert(pool: RankPool, *arguments: str | Path) -> str:
    code, said, _ = pool.run(Convert(tuple(map(str, arguments)), run_config(Path("unused"), {})))[0]
    assert code == 0, said
    return said


def refused(pool: RankPool, *arguments: str | Path) -> str:
    code, said, _ = pool.run(Convert(tuple(map(str, arguments)), run_config(Path("unused"), {})))[0]
    assert code == 1
    return said.strip().splitlines()[-1]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_family_comes_back_bit_for_bit(name: str, pool: RankPool, tmp_path: Path) -> None:
    hf, megatron, back = (tmp_path / each for each in ("hf", "megatron", "back"))
    build_family_model(name, hf, dtype=torch.bfloat16)
    (hf / "tokenizer.json").write_text("{}")
    count = len(hf_shapes(read_hf_config(hf)))
    said = convert(pool, "hf-to-megatron", "--hf-checkpoint", hf, "--save", megatron, "--check")
    assert said.endswith(f"{megatron}/release: all {count} tensors agree bit for bit\n")
    assert (megatron / "latest_checkpointed_iteration.txt").read_text() == "release"
    said = convert(pool, "megatron-to-hf", "--load", megatron, "--hf-checkpoint", hf, "--save", back, "--check")
    assert said.endswith(f"{back}: all {count} tensors agree bit for bit\n")
    assert_same_weights(back, hf)
    assert json.loads((back / "config.json").read_text()) == json.loads((hf / "config.json").read_text())
    assert (back / "tokenizer.json").is_file()


LAYOUTS: dict[str, dict[str, Any]] = {
    "llama3": {PP: 2},
    "glm4": {TP: 2},
    "qwen3-moe": {TP: 2, EP: 2, ETP: 1} | SP,
    "deepseek-v3": {EP: 2},
}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_release_is_loaded_and_a_trained_checkpoint_is_converted_under_any_layout(
    name: str, pool: RankPool, tmp_path: Path
) -> None:
    hf, megatron, trained = (tmp_path / each for each in ("hf", "megatron", "trained"))
    build_family_model(name, hf)
    convert(pool, "hf-to-megatron", "--hf-checkpoint", hf, "--save", megatron)
    config = run_config(hf, LAYOUTS[name])
    begin = Checkpoint(megatron, None)
    pool.run(Examine(config, tmp_path / "loaded", forward=False, begin=begin))
    assert_same_weights(tmp_path / "loaded", hf)
    pool.run(Examine(config, forward=False, steps=1, save_to=trained, export_after=tmp_path / "export", begin=begin))
    convert(
        pool, "megatron-to-hf", "--load", trained, "--hf-checkpoint", hf, "--save", tmp_path / "converted", "--check"
    )
    assert_same_weights(tmp_path / "converted", tmp_path / "export")
    with pytest.raises(AssertionError, match=r"^model|^lm_head"):
        assert_same_weights(tmp_path / "converted", hf)


def test_memory_grows_with_the_largest_tensors_and_not_with_the_model(pool: RankPool, tmp_path: Path) -> None:
    _convert_and_back(pool, tmp_path / "shallow", layers=2)
    size, growth = _convert_and_back(pool, tmp_path / "deep", layers=24)
    assert size > 350 << 20
    # A tensor and the allocator's own take 30 to 115 MB, of 24 layers as of 48; a held model would take all of it.
    assert max(growth) < size / 2, growth


def _convert_and_back(pool: RankPool, directory: Path, *, layers: int) -> tuple[int, list[int]]:
    """The size of the model's file, and by how much memory grew in each direction. A process's first conversion
    imports more than it holds."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    hf, megatron, back = directory / "hf", directory / "megatron", directory / "back"
    shape = {"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 4096, "head_dim": 64}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512}
    config = Qwen3Config(**shape, **heads, num_hidden_layers=layers, dtype="float32")
    Qwen3ForCausalLM(config).save_pretrained(hf)
    growth: list[int] = []
    for arguments in (
        ("hf-to-megatron", "--hf-checkpoint", hf, "--save", megatron, "--check"),
        ("megatron-to-hf", "--load", megatron, "--hf-checkpoint", hf, "--save", back, "--check"),
    ):
        code, said, grown = pool.run(Convert(tuple(map(str, arguments)), run_config(Path("unused"), {})))[0]
        assert code == 0, said
        growth.append(grown)
    return (hf / "model.safetensors").stat().st_size, growth


@pytest.fixture
def small(pool: RankPool, tmp_path: Path) -> tuple[Path, Path]:
    hf, megatron = tmp_path / "hf", tmp_path / "megatron"
    build_family_model("qwen3", hf)
    convert(pool, "hf-to-megatron", "--hf-checkpoint", hf, "--save", megatron)
    return hf, megatron


def test_checkpoints_that_are_there_are_not_written_over(small: tuple[Path, Path], pool: RankPool) -> None:
    hf, megatron = small
    said = refused(pool, "hf-to-megatron", "--hf-checkpoint", hf, "--save", megatron)
    assert said == f"error: {megatron} already holds checkpoints: choose another directory"


def test_a_release_whose_bytes_changed_is_refused_by_the_name_of_the_file(
    small: tuple[Path, Path], pool: RankPool
) -> None:
    hf, megatron = small
    damaged = next((megatron / "release").glob("*.distcp"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    said = rf"CheckpointInvalid.*{damaged.name} is not what was saved: its SHA-256 differs; convert it again"
    with pytest.raises(AssertionError, match=said):
        pool.run(Examine(run_config(hf, {}), forward=False, begin=Checkpoint(megatron, None)))


def test_an_export_goes_where_nothing_lies(small: tuple[Path, Path], pool: RankPool) -> None:
    hf, megatron = small
    before = {path.name: path.stat().st_mtime_ns for path in hf.iterdir()}
    said = refused(pool, "megatron-to-hf", "--load", megatron, "--hf-checkpoint", hf, "--save", hf)
    assert said == f"error: {hf} already holds files that no run exported: choose another directory, or empty it"
    assert {path.name: path.stat().st_mtime_ns for path in hf.iterdir()} == before


def test_a_comparison_names_the_tensor_that_differs(small: tuple[Path, Path], pool: RankPool, tmp_path: Path) -> None:
    hf, megatron = small
    back = tmp_path / "back"
    convert(pool, "megatron-to-hf", "--load", megatron, "--hf-checkpoint", hf, "--save", back)
    weights = load_file(back / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 4] += 1e-6
    save_file(weights, back / "model.safetensors", metadata={"format": "pt"})
    [(said,)] = pool.run(Compare(hf, megatron / "release", back, run_config(hf, {})))
    assert said.startswith("model.layers.2.mlp.up_proj.weight differs")


def test_a_checkpoint_of_another_model_is_refused_by_a_tensors_shape(
    small: tuple[Path, Path], pool: RankPool, tmp_path: Path
) -> None:
    hf, megatron = small
    config = json.loads((hf / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    said = refused(pool, "megatron-to-hf", "--load", megatron, "--hf-checkpoint", other, "--save", tmp_path / "back")
    assert "mlp.linear_fc1.weight has shape" in said
    assert not (tmp_path / "back").exists()


def test_a_directory_without_checkpoints_is_refused(pool: RankPool, tmp_path: Path) -> None:
    build_family_model("qwen3", tmp_path / "hf")
    said = refused(
        pool, "megatron-to-hf", "--load", tmp_path, "--hf-checkpoint", tmp_path / "hf", "--save", tmp_path / "back"
    )
    assert said.endswith("has no latest_checkpointed_iteration.txt: it is not a directory of Megatron checkpoints")
    with pytest.raises(CheckpointInvalid, match="iter_0000007"):
        checkpoint_of(tmp_path, 7)


def test_the_command_says_how_far_it_is_and_what_it_wrote(tmp_path: Path) -> None:
    build_family_model("moonlight", tmp_path / "hf", dtype=torch.bfloat16)
    rollway = [sys.executable, "-m", "controlplane.cli.main"]
    command = [*rollway, "convert", "hf-to-megatron", "--hf-checkpoint", str(tmp_path / "hf"), "--save"]
    done = subprocess.run(
        [*command, str(tmp_path / "megatron"), "--check"], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("tensors agree bit for bit")
    assert "written: " in done.stderr
    assert " parameters, " in done.stderr
