"""What is loaded and saved."""

from collections.abc import Mapping

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Given


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    if given["--start-rollout-id"] == 0 and "--load" not in given:
        draft.ignore("--start-rollout-id", "without --load a job begins at rollout 0 anyway")
    for flag in ("--start-rollout-id", "--ref-ckpt-step", "--save", "--save-hf"):
        if flag in given and not draft.settled(flag):
            draft.set(f"checkpoint.{flag.removeprefix('--').replace('-', '_')}", given[flag], flag)
    if "--spec" in given:
        if str(given["--spec"][0]).split(".")[0].endswith("_plugins"):
            draft.ignore("--spec", "the layers follow from config.json of the Hugging Face checkpoint")
        else:
            draft.refuse("--spec", "use --custom-model-provider-path for a model of your own")
