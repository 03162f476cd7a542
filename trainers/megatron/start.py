"""Where training begins: at an own checkpoint, at one that was given, or at the Hugging Face weights. Light."""

from dataclasses import dataclass
from pathlib import Path

from trainers.errors import CheckpointInvalid

TRACKER = "latest_checkpointed_iteration.txt"
EXTRA_STATE = "extra_state.json"
RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One iteration in a directory of Megatron checkpoints. Iterations are rollouts here."""

    directory: Path
    iteration: int | None
    """None: a ``release``, that is converted weights without optimizer, at no iteration."""

    @property
    def path(self) -> Path:
        return self.directory / (RELEASE if self.iteration is None else iteration_name(self.iteration))

    @property
    def next_rollout_id(self) -> int:
        return 0 if self.iteration is None else self.iteration + 1


def iteration_name(iteration: int) -> str:
    return f"iter_{iteration:07d}"


def resolve_start(save: Path, load: Path | None, *, ckpt_step: int | None = None) -> Checkpoint | None:
    """The checkpoint to begin from: the newest that this run saved, else ``load``'s, else None (Hugging Face).

    ``ckpt_step`` picks an iteration of ``load``. Raises CheckpointInvalid, which names the directory and what it
    lacks: a run never starts from other weights than those it was given.
    """
    if (save / TRACKER).is_file():
        return _checkpoint(save, _tracked(save))
    if load is None:
        return None
    if ckpt_step is not None:
        return _checkpoint(load, ckpt_step)
    if not (load / TRACKER).is_file():
        raise CheckpointInvalid(
            f"checkpoint.load: {load} has no {TRACKER}: it is not a directory of Megatron checkpoints; "
            "leave it out to begin from model.hf_checkpoint"
        )
    return _checkpoint(load, _tracked(load))


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
