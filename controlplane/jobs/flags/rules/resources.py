"""GPUs that train and GPUs that generate."""

from collections.abc import Mapping

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Given
from controlplane.jobs.flags.rules.algorithm import uses_engines


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    training = given["--actor-num-nodes"] * given["--actor-num-gpus-per-node"]
    field = "resources.rollout_num_gpus"
    if not uses_engines(given):
        draft.ignore("--colocate", "this job generates nothing")
        draft.ignore("--rollout-num-gpus", "this job generates nothing")
        return
    if "--colocate" in given:
        why = (
            f"{training} GPUs train and {training} further ones generate, {2 * training} in all: the halves do not "
            "take turns on the same GPUs"
        )
        draft.set(field, training, "--colocate", why=why)
        draft.ignore("--rollout-num-gpus", f"--colocate makes as many GPUs generate as train: {training}")
    elif "--rollout-num-gpus" in given:
        draft.set(field, given["--rollout-num-gpus"], "--rollout-num-gpus")
