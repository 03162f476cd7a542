"""Checkpoints that are written while training goes on."""

import errno
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_algorithms import ALGORITHMS, batch_of, rollout, run_config, single_rank
from trainers.config import RunConfig
from trainers.errors import StorageFailed
from trainers.megatron import async_save
from trainers.megatron.rank import Rank
from trainers.megatron.start import Checkpoint, checkpoint_of
from trainers.protocols import StepStats, TrainBatch

pytestmark = pytest.mark.timeout(300)

ONE_CHECKPOINT = ["iter_0000000", "latest_checkpointed_iteration.txt", "rollway_run.json"]


def config_of(model: Path, algorithm: dict[str, Any] | None = None, **trainer: Any) -> RunConfig:
    spec = run_config(model, algorithm or {"name": "grpo"}).model_dump()
    return RunConfig.model_validate(
        spec | {"checkpoint": {"async_save": True}, "trainer": spec["trainer"] | {"lr_decay_style": "cosine"} | trainer}
    )


def batch(config: RunConfig, rollout_id: int) -> TrainBatch:
    return batch_of(config, rollout_id, rollout(config, rollout_id))


def until_settled(rank: Rank) -> None:
    deadline = time.monotonic() + 60
    while not rank.save_settled():
        assert time.monotonic() < deadline, "the checkpoint is still being written"
        time.sleep(0.005)


@contextmanager
def writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No file of a checkpoint is begun before the event is set."""
    allowed = threading.Event()
    write = async_save.FileSystemWriterAsync.write_preloaded_data

    def wait_and_write(*args: Any, **kwargs: Any) -> Any:
        assert allowed.wait(60)
        return write(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(async_save.FileSystemWriterAsync, "write_preloaded_data", staticmethod(wait_and_write))
        try:
            yield allowed
        finally:
            allowed.set()


@pytest.mark.parametrize(
    ("algorithm", "optimizer"),
    [("dr_grpo", True), ("dr_grpo", False), ("ppo", True), ("grpo by trajectory with a moving reference", True)],
)
def test_training_goes_on_while_it_writes_and_what_is_loaded_is_the_state_at_the_save(
    algorithm: str, optimizer: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_model, ALGORITHMS[algorithm], megatron={"use_distributed_optimizer": optimizer})
    position: dict[str, Any] = {"data": {"offset": 7}}
    with single_rank(config) as rank, writes(monkeypatch) as allowed:
        rank.step(batch(config, 0))
        path = rank.save(0, tmp_path, position)
        position["data"]["offset"] = 8
        expected: list[StepStats] = [rank.step(batch(config, rollout_id)) for rollout_id in (1, 2)]
        assert not rank.save_settled()
        assert not path.exists()
        assert not (tmp_path / "latest_checkpointed_iteration.txt").exists()
        allowed.set()
        until_settled(rank)
    assert path == tmp_path / "iter_0000000"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ONE_CHECKPOINT
    with single_rank(config, Checkpoint(tmp_path, 0)) as rank:  # which compares every file with its checksum
        assert rank.state.extra_state == {"data": {"offset": 7}}
        assert [rank.step(batch(config, rollout_id)) for rollout_id in (1, 2)] == expected


def test_what_was_in_force_stays_until_the_next_is_whole_and_old_ones_go_then(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.model_validate(
        config_of(tiny_model).model_dump() | {"checkpoint": {"async_save": True, "keep_last": 1}}
    )
    with single_rank(config) as rank:
        rank.save(0, tmp_path, {})
        until_settled(rank)
        with writes(monkeypatch):
            rank.save(1, tmp_path, {})
            with pytest.raises(RuntimeError, match="iter_0000001 is still being written"):
                rank.save(2, tmp_path, {})
            assert checkpoint_of(tmp_path, None).iteration == 0
            rank.close()  # as a process that is killed leaves it
    assert (tmp_path / ".saving-1").is_dir()
    with single_rank(config, Checkpoint(tmp_path, 0)) as rank:
        rank.save(1, tmp_path, {})
        until_settled(rank)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["iter_0000001", *ONE_CHECKPOINT[1:]]


def test_a_write_that_fails_says_so_when_it_is_settled_and_leaves_the_last_checkpoint_in_force(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_model)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with single_rank(config) as rank:
        rank.save(0, tmp_path, {})
        until_settled(rank)
        with writes(monkeypatch) as allowed:
            rank.save(1, tmp_path, {})
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file grows beyond it
            try:
                allowed.set()
                with pytest.raises(StorageFailed, match=f"{tmp_path} cannot be written"):
                    until_settled(rank)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert checkpoint_of(tmp_path, None).iteration == 0
        assert not (tmp_path / "iter_0000001").exists()
        rank.save(1, tmp_path, {})
        until_settled(rank)
    assert checkpoint_of(tmp_path, None).iteration == 1


def test_a_disk_that_hangs_fails_the_save_in_time(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with single_rank(config_of(tiny_model, step_timeout_s=0.05)) as rank, writes(monkeypatch):
        rank.save(0, tmp_path, {})
        with pytest.raises(StorageFailed, match=r"cannot be written: .*did not write its part within"):
            until_settled(rank)


def test_a_directory_that_fills_up_at_the_very_end_is_named(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with single_rank(config_of(tiny_model)) as rank:
        rank.save(0, tmp_path, {})
        monkeypatch.setattr(async_save.FileSystemWriterAsync, "finish", full)
        with pytest.raises(StorageFailed, match=f"{tmp_path} cannot be written: .*No space left"):
            until_settled(rank)
    assert not (tmp_path / "latest_checkpointed_iteration.txt").exists()
