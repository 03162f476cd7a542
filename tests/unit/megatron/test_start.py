"""Where a run begins."""

from pathlib import Path

import pytest

from trainers.errors import CheckpointInvalid
from trainers.megatron.start import Checkpoint, resolve_start


def _write(directory: Path, tracker: str | None, *iterations: str) -> Path:
    for name in iterations:
        (directory / name).mkdir(parents=True)
    if tracker is not None:
        (directory / "latest_checkpointed_iteration.txt").write_text(tracker)
    return directory


def test_a_run_without_checkpoints_begins_at_the_hugging_face_weights(tmp_path: Path) -> None:
    assert resolve_start(tmp_path / "save", None) is None


def test_what_the_run_saved_itself_comes_before_what_it_was_given(tmp_path: Path) -> None:
    save = _write(tmp_path / "save", "7", "iter_0000007")
    load = _write(tmp_path / "load", "90", "iter_0000090")
    start = resolve_start(save, load, ckpt_step=50)
    assert start == Checkpoint(save, 7)
    assert start.next_rollout_id == 8


def test_rollout_zero_counts_as_saved(tmp_path: Path) -> None:
    assert resolve_start(_write(tmp_path, "0\n", "iter_0000000"), None) == Checkpoint(tmp_path, 0)


def test_a_directory_whose_tracker_was_never_written_does_not_count(tmp_path: Path) -> None:
    save = _write(tmp_path / "save", None, "iter_0000003")
    load = _write(tmp_path / "load", "5", "iter_0000005")
    assert resolve_start(save, load) == Checkpoint(load, 5)


def test_a_given_directory_without_tracker_is_refused(tmp_path: Path) -> None:
    load = _write(tmp_path / "load", None, "iter_0000003")
    with pytest.raises(CheckpointInvalid, match=r"load has no latest_checkpointed_iteration\.txt"):
        resolve_start(tmp_path / "save", load)


def test_a_step_of_the_given_directory_can_be_picked_without_its_tracker(tmp_path: Path) -> None:
    load = _write(tmp_path / "load", None, "iter_0000003")
    assert resolve_start(tmp_path / "save", load, ckpt_step=3) == Checkpoint(load, 3)


def test_a_tracker_that_names_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="has no iter_0000004"):
        resolve_start(_write(tmp_path, "4", "iter_0000003"), None)


def test_a_tracker_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="says 'soon'"):
        resolve_start(_write(tmp_path, "soon"), None)


def test_converted_weights_begin_at_rollout_zero(tmp_path: Path) -> None:
    start = resolve_start(tmp_path / "save", _write(tmp_path / "load", "release", "release"))
    assert start is not None
    assert start.next_rollout_id == 0
