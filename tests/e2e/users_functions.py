"""Functions of a user's own, for a whole job."""

from pathlib import Path
from typing import Any

from engines.types import Sample


def not_at_once(sample: Sample, group: list[Sample]) -> bool:
    """What was guessed at once was luck."""
    return len(sample.metadata["guesses"]) > 1


def log(rollout_id: int, args: Any, samples: list[Any], rollout_extra_metrics: Any, rollout_time: float) -> bool:
    rollout_extra_metrics["games"] = len(samples)
    assert args.n_samples_per_prompt == 8
    return False


def before_train_step(
    args: Any, rollout_id: int, step_id: int, model: list[Any], optimizer: Any, opt_param_scheduler: Any
) -> None:
    with Path(args.steps_file).open("a") as file:
        file.write(f"{rollout_id}.{step_id}\n")
