"""What a rank saves and loads: exactly, whole, and no one else's."""

import resource
from pathlib import Path

import pytest
import torch

from tests.e2e.trainer_cases import make_batch, run_config, single_rank
from trainers.errors import CheckpointInvalid, StorageFailed
from trainers.megatron.rank import Rank
from trainers.megatron.start import Checkpoint

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("distributed", [False, True])
def test_a_resumed_run_takes_exactly_the_steps_that_the_interrupted_one_would_have(
    dtype: str, distributed: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    trainer = {"dtype": dtype, "lr_decay_style": "cosine", "megatron": {"use_distributed_optimizer": distributed}}
    config = run_config(models["qwen3"], batch=6, trainer=trainer)
    with single_rank(config) as rank:
        rank.step(make_batch(config, 0))
        path = rank.save(0, tmp_path, {"data": {"offset": 7}})
        expected = [rank.step(make_batch(config, rollout_id)) for rollout_id in (1, 2)]
    assert path == tmp_path / "iter_0000000"
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "0"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "iter_0000000",
        "latest_checkpointed_iteration.txt",
        "rollway_run.json",
    ]

    with single_rank(config, Checkpoint(tmp_path, 0)) as rank:
        assert rank.state.next_rollout_id == 1
        assert rank.state.extra_state == {"data": {"offset": 7}}
        assert rank.state.loaded_from == str(path)
        found = [rank.step(make_batch(config, rollout_id)) for rollout_id in (1, 2)]
    assert found == expected


@pytest.mark.parametrize("distributed", [False, True])
def test_a_checkpoint_before_the_first_step_can_be_loaded(
    distributed: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    config = run_config(models["qwen3"], trainer={"megatron": {"use_distributed_optimizer": distributed}})
    with single_rank(config) as rank:
        rank.save(0, tmp_path, {})
        expected = rank.step(make_batch(config, 1))
    with single_rank(config, Checkpoint(tmp_path, 0)) as rank:
        assert rank.step(make_batch(config, 1)) == expected


def test_a_checkpoint_of_another_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with single_rank(run_config(models["qwen3"])) as rank:
        rank.save(0, tmp_path, {})
    with pytest.raises(CheckpointInvalid, match="iter_0000000 cannot be loaded"):
        Rank(
            run_config(models["llama"]),
            run_id="run",
            rank=0,
            world_size=1,
            device="cpu",
            begin=Checkpoint(tmp_path, 0),
        )


@pytest.mark.parametrize("format", ["torch", "torch_dist"])
def test_either_format_is_recognised_when_it_is_loaded_whatever_is_saved(
    format: str, models: dict[str, Path], tmp_path: Path
) -> None:
    written = run_config(models["qwen3"], checkpoint={"format": format})
    with single_rank(written) as rank:
        rank.step(make_batch(written, 0))
        rank.save(0, tmp_path, {"data": 1})
        expected = rank.step(make_batch(written, 1))
    other = run_config(models["qwen3"], checkpoint={"format": {"torch": "torch_dist", "torch_dist": "torch"}[format]})
    with single_rank(other, Checkpoint(tmp_path, 0)) as rank:
        assert rank.state.extra_state == {"data": 1}
        found = rank.step(make_batch(other, 1))
    assert found.losses == expected.losses
    assert found.grad_norms == expected.grad_norms


@pytest.mark.parametrize("format", ["torch", "torch_dist"])
@pytest.mark.parametrize("tracker", ["1", "release", None])
def test_an_earlier_checkpoint_is_loaded_whole_whatever_the_tracker_says(
    tracker: str | None, format: str, models: dict[str, Path], tmp_path: Path
) -> None:
    config = run_config(models["qwen3"], checkpoint={"format": format})
    with single_rank(config) as rank:
        rank.step(make_batch(config, 0))
        rank.save(0, tmp_path, {"data": 0})
        expected = [rank.step(make_batch(config, rollout_id)) for rollout_id in (1, 2)]
        rank.save(1, tmp_path, {"data": 1})
    named = tmp_path / "latest_checkpointed_iteration.txt"
    assert named.read_text() == "1"
    named.unlink() if tracker is None else named.write_text(tracker)
    with single_rank(config, Checkpoint(tmp_path, 0)) as rank:
        assert (rank.state.next_rollout_id, rank.state.extra_state) == (1, {"data": 0})
        assert [rank.step(make_batch(config, rollout_id)) for rollout_id in (1, 2)] == expected


@pytest.mark.parametrize("format", ["torch", "torch_dist"])
def test_a_run_that_saves_no_optimizer_can_be_resumed(format: str, models: dict[str, Path], tmp_path: Path) -> None:
    trainer = {"megatron": {"no_save_optim": True}}
    config = run_config(models["qwen3"], checkpoint={"format": format}, trainer=trainer)
    with single_rank(config) as rank:
        rank.step(make_batch(config, 0))
        rank.save(0, tmp_path, {"data": 0})
        expected = rank.step(make_batch(config, 1))
    with single_rank(config, Checkpoint(tmp_path, 0)) as rank:
        assert (rank.state.next_rollout_id, rank.state.extra_state) == (1, {"data": 0})
        assert rank.step(make_batch(config, 1)).losses == expected.losses


def test_a_directory_where_another_run_has_begun_to_save_is_left_alone(models: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(models["qwen3"], checkpoint={"keep_last": 1})
    with single_rank(config) as rank:
        (tmp_path / "rollway_run.json").write_text('{"run": "another"}')
        (tmp_path / ".saving-3").mkdir()
        with pytest.raises(CheckpointInvalid, match=f"run another saves to {tmp_path} too"):
            rank.save(0, tmp_path, {})
        assert sorted(path.name for path in tmp_path.iterdir()) == [".saving-3", "rollway_run.json"]
        own = tmp_path / "own"
        rank.save(0, own, {})
        (own / "iter_0000007").mkdir()
        (own / "iter_0000007" / "manifest.json").write_text("{")  # damaged, and nobody's to delete
        rank.save(1, own, {})
    assert sorted(path.name for path in own.glob("iter_*")) == ["iter_0000001", "iter_0000007"]
    with single_rank(config, Checkpoint(own, 1)) as rank:  # "run", whose directory it is
        rank.save(2, own, {})


def test_weights_alone_begin_a_new_run(models: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(models["qwen3"])
    with single_rank(config) as rank:
        rank.step(make_batch(config, 0))
        rank.save(4, tmp_path, {"data": 1})
        trained = {name: tensor.clone() for name, tensor in rank.named_tensors()}
    with single_rank(config, Checkpoint(tmp_path, 4, weights_only=True)) as rank:
        assert (rank.state.next_rollout_id, rank.state.extra_state) == (0, None)
        assert all(torch.equal(tensor, trained[name]) for name, tensor in rank.named_tensors())
        assert rank.step(make_batch(config, 0)).metrics["lr"] == config.trainer.lr


def test_a_damaged_checkpoint_is_refused_by_the_name_of_the_file(models: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(models["qwen3"])
    with single_rank(config) as rank:
        path = rank.save(0, tmp_path, {})
    victim = max(path.rglob("*.distcp"), key=lambda file: file.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with (
        pytest.raises(CheckpointInvalid, match=f"{victim.name} is not what was saved"),
        single_rank(config, Checkpoint(tmp_path, 0)),
    ):
        pass


def test_old_checkpoints_go_once_a_newer_one_is_whole(models: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(models["qwen3"], checkpoint={"keep_last": 2, "keep_every": 3})
    (tmp_path / "iter_0000001").mkdir()  # of another program
    with single_rank(config) as rank:
        for rollout in (2, 3, 4, 5, 6):
            rank.save(rollout, tmp_path, {})
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert names == ["iter_0000001", "iter_0000002", "iter_0000005", "iter_0000006"]


def test_a_save_that_runs_out_of_space_leaves_the_last_checkpoint_in_force(
    models: dict[str, Path], tmp_path: Path
) -> None:
    config = run_config(models["qwen3"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with single_rank(config) as rank:
        rank.save(0, tmp_path, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file grows beyond it
        try:
            with pytest.raises(StorageFailed, match=str(tmp_path)):
                rank.save(1, tmp_path, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "0"
        assert not (tmp_path / "iter_0000001").exists()
        rank.save(1, tmp_path, {})
    assert sorted(path.name for path in tmp_path.glob("*")) == [
        "iter_0000000",
        "iter_0000001",
        "latest_checkpointed_iteration.txt",
        "rollway_run.json",
    ]


def test_a_save_where_nothing_can_be_written_names_the_directory(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        single_rank(run_config(models["qwen3"])) as rank,
        pytest.raises(StorageFailed, match="file/checkpoints cannot be written"),
    ):
        rank.save(0, tmp_path / "file" / "checkpoints", {})
