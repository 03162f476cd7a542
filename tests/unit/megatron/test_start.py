"""Where a run begins."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainers.config import CheckpointConfig
from trainers.errors import CheckpointInvalid
from trainers.megatron.manifest import FileEntry, Manifest, damage, digest, expendable, files_of, read_manifest
from trainers.megatron.start import Checkpoint, reference, resolve_start


def _write(directory: Path, tracker: str | None, *iterations: str, run: str | None = None) -> Path:
    for name in iterations:
        (directory / name).mkdir(parents=True)
    if tracker is not None:
        directory.mkdir(exist_ok=True)
        (directory / "latest_checkpointed_iteration.txt").write_text(tracker)
    if run is not None:
        (directory / "rollway_run.json").write_text(json.dumps({"run": run}))
        for name in iterations:
            (directory / name / "manifest.json").write_text(Manifest(run, int(name[5:]), ()).to_json())
    return directory


def _start(save: Path, **fields: Any) -> Checkpoint | None:
    given = {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
    return resolve_start(save, CheckpointConfig.model_validate(given), run_id="mine")


def test_a_run_without_checkpoints_begins_at_the_hugging_face_weights(tmp_path: Path) -> None:
    assert _start(tmp_path / "save") is None


def test_what_the_run_saved_itself_comes_before_what_it_was_given(tmp_path: Path) -> None:
    save = _write(tmp_path / "save", "7", "iter_0000007", run="mine")
    load = _write(tmp_path / "load", "90", "iter_0000090")
    start = _start(save, load=load, ckpt_step=50, finetune=True)
    assert start == Checkpoint(save, 7)
    assert start.next_rollout_id == 8


def test_rollout_zero_counts_as_saved(tmp_path: Path) -> None:
    assert _start(_write(tmp_path, "0\n", "iter_0000000", run="mine")) == Checkpoint(tmp_path, 0)


def test_a_directory_whose_tracker_was_never_written_does_not_count(tmp_path: Path) -> None:
    save = _write(tmp_path / "save", None, "iter_0000003")
    load = _write(tmp_path / "load", "5", "iter_0000005")
    assert _start(save, load=load) == Checkpoint(load, 5)


@pytest.mark.parametrize("run", ["theirs", None])
def test_another_runs_checkpoints_are_never_written_over(run: str | None, tmp_path: Path) -> None:
    save = _write(tmp_path / "save", "5", "iter_0000005", run=run)
    with pytest.raises(CheckpointInvalid, match=r"checkpoint.save: .*: choose another directory"):
        _start(save)
    with pytest.raises(CheckpointInvalid, match=r"checkpoint.save: .*: choose another directory"):
        _start(save, load=_write(tmp_path / "load", "90", "iter_0000090"))


def test_one_directory_as_load_and_save_is_gone_on_with_or_begun(tmp_path: Path) -> None:
    assert _start(tmp_path / "new", load=tmp_path / "new") is None
    theirs = _write(tmp_path / "old", "5", "iter_0000005", run="theirs")
    assert _start(theirs, load=theirs) == Checkpoint(theirs, 5)


def test_a_given_directory_without_tracker_is_refused(tmp_path: Path) -> None:
    load = _write(tmp_path / "load", None, "iter_0000003")
    with pytest.raises(CheckpointInvalid, match=r"load has no latest_checkpointed_iteration\.txt"):
        _start(tmp_path / "save", load=load)


def test_where_load_holds_nothing_yet_the_reference_weights_begin_at_rollout_zero(tmp_path: Path) -> None:
    converted = _write(tmp_path / "ref", "release", "release")
    start = _start(tmp_path / "save", load=tmp_path / "missing", ref_load=converted)
    assert start == Checkpoint(converted, None, weights_only=True)
    assert start.next_rollout_id == 0
    chosen = _start(tmp_path / "save", load=tmp_path / "missing", ref_load=converted, start_rollout_id=10)
    assert chosen is not None and chosen.weights_only and chosen.next_rollout_id == 10


def test_a_start_later_than_the_beginning_needs_a_checkpoint(tmp_path: Path) -> None:
    hf = tmp_path / "hf"
    hf.mkdir()
    (hf / "config.json").write_text("{}")
    for given in ({"ref_load": hf}, {}):
        with pytest.raises(CheckpointInvalid, match=r"checkpoint\.start_rollout_id is 10, and .* holds no checkpoint"):
            _start(tmp_path / "save", load=tmp_path / "missing", start_rollout_id=10, **given)
    assert _start(tmp_path / "save", load=tmp_path / "missing", ref_load=hf) is None


def test_a_step_of_the_given_directory_can_be_picked_without_its_tracker(tmp_path: Path) -> None:
    load = _write(tmp_path / "load", None, "iter_0000003")
    assert _start(tmp_path / "save", load=load, ckpt_step=3) == Checkpoint(load, 3)


def test_the_step_of_load_never_leaks_into_the_reference(tmp_path: Path) -> None:
    ref = _write(tmp_path / "ref", "9", "iter_0000009", "iter_0000003")
    config = {"load": "x", "ckpt_step": 3, "ref_load": str(ref)}
    assert reference(CheckpointConfig.model_validate(config)) == Checkpoint(ref, 9, weights_only=True)
    own = reference(CheckpointConfig.model_validate(config | {"ref_ckpt_step": 3}))
    assert own == Checkpoint(ref, 3, weights_only=True)


def test_weights_alone_begin_at_rollout_zero_and_an_explicit_start_is_honoured(tmp_path: Path) -> None:
    load = _write(tmp_path / "load", "5", "iter_0000005")
    weights = _start(tmp_path / "save", load=load, finetune=True)
    chosen = _start(tmp_path / "save", load=load, start_rollout_id=2)
    assert weights is not None and weights.weights_only and weights.next_rollout_id == 0
    assert chosen is not None and not chosen.weights_only and chosen.next_rollout_id == 2


def test_a_tracker_that_names_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="has no iter_0000004"):
        _start(_write(tmp_path, "4", "iter_0000003", run="mine"))


def test_a_tracker_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="says 'soon'"):
        _start(_write(tmp_path, "soon", run="mine"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ckpt_step": 3}, "checkpoint.load to begin"),
        ({"finetune": True}, "takes the weights of checkpoint.load"),
        ({"ref_ckpt_step": 1}, "checkpoint.ref_load"),
        ({"keep_every": 2}, "checkpoint.keep_last"),
        ({"async_save": True, "format": "torch"}, "checkpoint.format torch_dist"),
    ],
)
def test_a_field_without_its_partner_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CheckpointConfig.model_validate(fields)


def test_until_its_first_checkpoint_is_whole_a_run_begins_where_it_was_told(tmp_path: Path) -> None:
    load = _write(tmp_path, "9", "iter_0000003", "iter_0000009", run="theirs")
    told = {"load": load, "start_rollout_id": 12}
    first = _start(load, **told)
    (load / "rollway_run.json").write_text(json.dumps({"run": "mine"}))  # and then the host dies
    assert _start(load, **told) == first == Checkpoint(load, 9, next_rollout=12)
    _write(load, "12", "iter_0000012", run="mine")
    assert _start(load, **told) == Checkpoint(load, 12)


@pytest.mark.parametrize("fields", [{"ckpt_step": 3}, {"finetune": True}, {"start_rollout_id": 9}])
def test_a_run_that_would_come_to_anothers_checkpoint_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    load = _write(tmp_path / "load", "9", "iter_0000003", "iter_0000009", run="theirs")
    with pytest.raises(CheckpointInvalid, match=r"checkpoint\.save: .*iter_\d+ is another run.s .*choose another"):
        _start(load, load=load, **fields)
    assert _start(tmp_path / "save", load=load, **fields) is not None
    nobodys = _write(tmp_path / "nobodys", None, "iter_0000000")
    with pytest.raises(CheckpointInvalid, match=r"checkpoint\.save: .*iter_0000000"):
        _start(nobodys)


def test_the_newest_and_the_multiples_are_kept() -> None:
    assert expendable(range(10), keep_last=None, keep_every=None) == []
    assert expendable([9, 4, 5, 6, 7], keep_last=2, keep_every=None) == [4, 5, 6]
    assert expendable(range(10), keep_last=3, keep_every=4) == [0, 1, 2, 4, 5, 6]
    saved = range(9, 200, 10)  # every ten rollouts
    assert set(saved) - set(expendable(saved, keep_last=2, keep_every=50)) == {49, 99, 149, 189, 199}
    assert expendable([1], keep_last=5, keep_every=None) == []


def test_a_manifest_names_the_file_that_changed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b").write_bytes(b"")
    entries = digest(tmp_path, files_of(tmp_path))
    # Of "weights" and of nothing, by sha256sum.
    assert [(entry.path, entry.size) for entry in entries] == [("a", 7), ("deep/b", 0)]
    assert entries[1].sha256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "manifest.json").write_text(Manifest("run", 3, tuple(entries)).to_json())
    assert read_manifest(tmp_path) == Manifest("run", 3, tuple(entries))
    assert damage(tmp_path, entries) is None
    (tmp_path / "a").write_bytes(b"weighty")
    assert "a is not what was saved" in str(damage(tmp_path, entries))
    (tmp_path / "a").write_bytes(b"short")
    assert "5 bytes, not the 7" in str(damage(tmp_path, entries))
    assert "cannot be read" in str(damage(tmp_path, [FileEntry("gone", 1, "")]))


@pytest.mark.parametrize("template", ["/x/{rollout_id}/{step}", "/x/{rollout}", "/x/{}"])
def test_an_export_directory_with_an_unknown_placeholder_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.save_hf: \{.*\} is not known; the one placeholder is"):
        CheckpointConfig(save_hf=template)
    assert CheckpointConfig(save_hf="/x/{rollout_id}").exports_every_save
    assert not CheckpointConfig(save_hf="/x/hf").exports_every_save
