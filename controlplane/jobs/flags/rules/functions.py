"""The user's own functions, and slime's where they are named in their place."""

from collections.abc import Mapping
from typing import Any, cast

import yaml

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.flag import Kind
from controlplane.jobs.flags.given import Given
from controlplane.jobs.flags.table import TABLE

_ROLLOUTS = ("slime.rollout.sglang_rollout.generate_rollout", "slime.rollout.sglang_example.generate_rollout")
_SFT = "slime.rollout.sft_rollout.generate_rollout"
_FILTER = "slime.rollout.filter_hub.dynamic_sampling_filters.check_reward_nonzero_std"
_SOURCES = (
    "slime.rollout.data_source.RolloutDataSource",
    "slime.rollout.data_source.RolloutDataSourceWithBuffer",
    "slime.data.data_source.RolloutDataSource",
    "slime.data.data_source.RolloutDataSourceWithBuffer",
)
_SHIPPED = "it names the shipped one"
_PATHS = tuple(
    flag.name for flag in TABLE.values() if flag.name.endswith("-path") and flag.fields and flag.takes.values
)


_OF_ROLLOUTS = (
    *("--rollout-function-path", "--custom-generate-function-path", "--rollout-sample-filter-path"),
    *("--rollout-all-samples-process-path", "--data-source-path", "--buffer-filter-path"),
)
_OF_TRAINING = (
    *("--custom-reward-post-process-path", "--custom-model-provider-path", "--custom-megatron-init-path"),
    *("--custom-megatron-before-log-prob-hook-path", "--custom-megatron-before-train-step-hook-path"),
)


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    if "--load-debug-rollout-data" in given:
        for flag in _OF_ROLLOUTS:
            draft.ignore(flag, "--load-debug-rollout-data has the rollouts")
    elif "--debug-rollout-only" in given:
        for flag in _OF_TRAINING:
            draft.ignore(flag, "--debug-rollout-only trains nothing")
    _rollout(given, draft)
    if given["--dynamic-sampling-filter-path"] == _FILTER:
        draft.set("rollout.dynamic_sampling_filter", "reward_nonzero_std", "--dynamic-sampling-filter-path")
    if given["--data-source-path"] in _SOURCES:
        draft.ignore("--data-source-path", _SHIPPED)
    for flag in _PATHS:
        if flag in given and str(given[flag]).startswith("slime.") and not draft.settled(flag):
            draft.refuse(flag, f"{given[flag]} is a part of slime, which is not here: name a function of your own")
    for flag in ("--rollout-function-path", "--dynamic-sampling-filter-path", "--data-source-path"):
        if flag in given and not draft.settled(flag):
            draft.set(TABLE[flag].fields[0], given[flag], flag)
    _arguments(given, draft, files)


def _rollout(given: Given, draft: Draft) -> None:
    flag = "--rollout-function-path"
    path = given[flag]
    if draft.settled(flag):
        return
    if path in _ROLLOUTS:
        draft.ignore(flag, _SHIPPED)
    elif path == _SFT:
        if given["--loss-type"] == "sft_loss":
            draft.ignore(flag, "algorithm sft brings its own rollout")
        else:
            draft.refuse(flag, "it goes with --loss-type sft_loss, which is not given")
    elif path is not None and "fully_async" in path and path.startswith("slime."):
        draft.refuse(flag, "not supported yet: rollouts and training take turns")


def _arguments(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    flag = "--custom-config-path"
    if flag not in given:
        return
    try:
        content = read_yaml(given[flag], files)
    except ValueError as error:
        draft.refuse(flag, str(error))
        return
    for name in content:
        own = TABLE.get(f"--{str(name).replace('_', '-')}")
        if own is not None and own.kind not in (Kind.IGNORED, Kind.REFUSED):
            draft.refuse(flag, f"{name} in it is a setting of the job, which {own.name} says: give that instead")
            return
    for name, value in content.items():
        draft.set(f"plugins.arguments.{name}", value, flag, why="its values are for your functions alone")
    draft.ignore(flag, "the file is empty")


_MOST_VALUES = 100000


def _is_large(content: dict[str, Any]) -> bool:
    """A few lines of aliases can stand for more than any memory holds."""
    waiting: list[Any] = [content]
    for _ in range(_MOST_VALUES):
        if not waiting:
            return False
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += cast("dict[Any, Any]", value).values()
        elif isinstance(value, list):
            waiting += cast("list[Any]", value)
    return True


def read_yaml(path: str, files: Mapping[str, str]) -> dict[str, Any]:
    """The mapping that a file holds. Raises ValueError, which says why there is none."""
    if path not in files:
        raise ValueError(f"the file {path} did not come with the flags: submit with 'rollway train' where it is")
    try:
        content: Any = yaml.safe_load(files[path]) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no mapping at its top")
    if _is_large(cast("dict[str, Any]", content)):
        raise ValueError(f"{path} holds more than {_MOST_VALUES} values, its aliases written out")
    return cast("dict[str, Any]", content)
