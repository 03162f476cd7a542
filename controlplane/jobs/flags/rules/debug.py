"""One half of a run by itself, and rollouts on disk."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Given


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    load, train, rollout = "--load-debug-rollout-data", "--debug-train-only", "--debug-rollout-only"
    if load in given:
        draft.set("debug.load_rollouts", directory(given[load]), load)
        draft.set("debug.mode", "train_only", load, train)
    elif given["--loss-type"] == "sft_loss":
        draft.ignore(train, "algorithm sft has no engines anyway")
    else:
        draft.refuse(train, f"there is nothing to train on: give {load} too")
    if rollout in given:
        if train in given or load in given:
            draft.refuse(rollout, "the other half is asked for too: take one of the two")
        else:
            draft.set("debug.mode", "rollout_only", rollout)
    save, details = "--save-debug-rollout-data", "--dump-details"
    if save in given:
        draft.set("debug.save_rollouts", directory(given[save]), save, why=f"a directory: {directory(given[save])}")
        draft.ignore(details, f"{save} says where rollouts go")
    elif details in given:
        why = "rollouts alone are saved"
        draft.set("debug.save_rollouts", str(PurePosixPath(given[details]) / "rollout_data"), details, why=why)


def directory(template: str) -> str:
    """Where slime's template puts its files: ``/d/{rollout_id}.pt`` into ``/d``; ``/d/data.pt`` becomes ``/d/data``."""
    path = PurePosixPath(template)
    if "{" in path.name:
        return str(path.parent)
    return str(path.with_suffix("")) if path.suffix == ".pt" else str(path)
