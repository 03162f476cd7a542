"""Where training begins: at an own checkpoint, at one that was given, or at the Hugging Face weights. Light."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from trainers.config import CheckpointConfig
from trainers.errors import CheckpointInvalid
from trainers.megatron.manifest import read_manifest

TRACKER = "latest_checkpointed_iteration.txt"
EXTRA_STATE = "extra_state.json"
OWNER = "rollway_run.json"
"""In a directory of checkpoints: which run writes there."""
RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One iteration in a directory of Megatron checkpoints. Iterations are rollouts here."""

    directory: Path
    iteration: int | None
    """None: a ``release``, that is converted weights without optimizer, at no iteration."""
    weights_only: bool = False
    """Leave its optimizer, schedule, random state and data position: a new run begins with its weights."""
    next_rollout: int | None = None
    """The rollout to begin with, where that was said."""

    @property
    def path(self) -> Path:
        return self.directory / (RELEASE if self.iteration is None else iteration_name(self.iteration))

    @property
    def next_rollout_id(self) -> int:
        if self.next_rollout is not None:
            return self.next_rollout
        return 0 if self.iteration is None or self.weights_only else self.iteration + 1


def iteration_name(iteration: int) -> str:
    return f"iter_{iteration:07d}"


def resolve_start(save: Path, config: CheckpointConfig, *, run_id: str) -> Checkpoint | None:
    """The checkpoint to begin from: the newest that this run saved, else that of ``checkpoint.load``; where
    that holds nothing, ``checkpoint.ref_load``'s; else None (``model.hf_checkpoint``).

    Raises CheckpointInvalid, which names the directory and what it lacks: a run never starts from other weights
    than those it was given, and never writes over another run's checkpoints.
    """
    load = Path(config.load) if config.load is not None else None
    if (save / TRACKER).is_file():
        owner = read_owner(save)
        if owner == run_id and written_by(newest := _checkpoint(save, _tracked(save)), run_id):
            return newest
        if load is None or load.resolve() != save.resolve():
            whose = f"those of run {owner}" if owner else "checkpoints that another program wrote"
            raise CheckpointInvalid(
                f"checkpoint.save: {save} holds {whose}: choose another directory, or give it as checkpoint.load too "
                "to go on with them"
            )
    begin = None if load is None else _given(load, save, config)
    _check_room(save, 0 if begin is None else begin.next_rollout_id, run_id)
    return begin


def written_by(checkpoint: Checkpoint, run_id: str) -> bool:
    """A directory becomes a run's own when it begins to save there; its first checkpoint is whole much later."""
    manifest = read_manifest(checkpoint.path)
    return manifest is not None and manifest.run == run_id


def _check_room(save: Path, first: int, run_id: str) -> None:
    """For the checkpoints of rollout ``first`` and all after it."""
    for path in sorted(save.glob("iter_*")):
        number = path.name.removeprefix("iter_")
        if number.isdecimal() and int(number) >= first and not written_by(Checkpoint(save, int(number)), run_id):
            raise CheckpointInvalid(
                f"checkpoint.save: {path} is another run's or program's, and this run, which begins at rollout "
                f"{first}, would come to write over it: choose another directory"
            )


def _given(load: Path, save: Path, config: CheckpointConfig) -> Checkpoint | None:
    if config.ckpt_step is not None:
        begin = _checkpoint(load, config.ckpt_step)
    elif (load / TRACKER).is_file():
        begin = _checkpoint(load, _tracked(load))
    elif config.ref_load is not None and (begin := reference(config)) is not None:
        return replace(begin, next_rollout=config.start_rollout_id)
    elif config.start_rollout_id:
        raise CheckpointInvalid(
            f"checkpoint.start_rollout_id is {config.start_rollout_id}, and checkpoint.load: {load} holds no "
            "checkpoint to go on with: leave it out to begin anew"
        )
    elif config.ref_load is not None:
        return None
    elif load.resolve() == save.resolve() and not (load.is_dir() and any(load.iterdir())):
        return None  # begun here, to be resumed here
    else:
        raise CheckpointInvalid(
            f"checkpoint.load: {load} has no {TRACKER}: it is not a directory of Megatron checkpoints; "
            "leave it out to begin from model.hf_checkpoint, or set checkpoint.ref_load to begin from that"
        )
    return Checkpoint(begin.directory, begin.iteration, config.finetune, config.start_rollout_id)


def reference(config: CheckpointConfig) -> Checkpoint | None:
    """The reference model's weights; None: they are in Hugging Face's format, or the model's own."""
    if config.ref_load is None:
        return None
    directory = Path(config.ref_load)
    if config.ref_ckpt_step is None and not (directory / TRACKER).is_file():
        if (directory / "config.json").is_file():
            return None
        raise CheckpointInvalid(
            f"checkpoint.ref_load: {directory} has neither {TRACKER} nor config.json: it is neither a directory of "
            "Megatron checkpoints nor of Hugging Face's"
        )
    step = config.ref_ckpt_step
    found = _checkpoint(directory, _tracked(directory) if step is None else step)
    return Checkpoint(found.directory, found.iteration, weights_only=True)


def checkpoint_of(directory: Path, iteration: int | None) -> Checkpoint:
    """The given iteration, or the one that the tracker names. Raises CheckpointInvalid."""
    if iteration is not None:
        return _checkpoint(directory, iteration)
    if not (directory / TRACKER).is_file():
        raise CheckpointInvalid(f"{directory} has no {TRACKER}: it is not a directory of Megatron checkpoints")
    return _checkpoint(directory, _tracked(directory))


def read_owner(directory: Path) -> str | None:
    """The run that writes checkpoints to ``directory``; None where no run of ours does."""
    try:
        return str(json.loads((directory / OWNER).read_text())["run"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointInvalid(f"{directory / OWNER} does not say which run it belongs to: {error}") from error


def _tracked(directory: Path) -> int | None:
    tracker = directory / TRACKER
    text = tracker.read_text().strip()
    if text == RELEASE:
        return None
    if not text.isdecimal():
        raise CheckpointInvalid(f"{tracker} says {text[:80]!r}, neither an iteration nor {RELEASE!r}")
    return int(text)


def _checkpoint(directory: Path, iteration: int | None) -> Checkpoint:
    checkpoint = Checkpoint(directory, iteration)
    if not checkpoint.path.is_dir():
        raise CheckpointInvalid(f"{directory} has no {checkpoint.path.name}, which it should hold")
    return checkpoint
