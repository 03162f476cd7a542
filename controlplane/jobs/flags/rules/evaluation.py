"""Eval sets and how they are sampled."""

from collections.abc import Mapping
from typing import Any, cast

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Given
from controlplane.jobs.flags.rules.algorithm import trains_alone
from controlplane.jobs.flags.rules.functions import read_yaml
from controlplane.jobs.flags.rules.rewards import FIELD, rule
from controlplane.jobs.flags.table import GROUPS

_SAMPLING = {
    "--eval-temperature": "temperature",
    "--eval-top-p": "top_p",
    "--eval-top-k": "top_k",
    "--eval-max-response-len": "max_new_tokens",
    "--eval-min-new-tokens": "min_new_tokens",
}
_KEYS = {"--eval-input-key": "input_key", "--eval-label-key": "label_key", "--eval-tool-key": "tool_key"}
_SET_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_response_len": "max_new_tokens",
    "min_new_tokens": "min_new_tokens",
    "stop": "stop",
    "stop_token_ids": "stop_token_ids",
}
_SET_FIELDS = {
    "input_key": "input_key",
    "label_key": "label_key",
    "tool_key": "tool_key",
    "metadata_key": "metadata_key",
    "n_samples_per_eval_prompt": "n_samples_per_prompt",
}
_BESIDE = ("--eval-function-path", "--eval-reward-key", "--custom-eval-rollout-log-function-path")
_SET_REWARD = ("rm_type", "custom_rm_path")


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    interval = "--eval-interval"
    if interval not in given or trains_alone(given):
        why = "this job generates nothing" if interval in given else f"without {interval} nothing is evaluated"
        for flag in (*(flag.name for flag in GROUPS["Evaluation"] if flag.kind != "refused"), *_BESIDE):
            draft.ignore(flag, why)
        return
    sampling = draft.get("rollout.sampling", {}) | _overrides(given)
    draft.set("eval.interval", given[interval], interval)
    if any(flag in given for flag in _SAMPLING):
        for name, value in _greedy(sampling).items():
            draft.set(f"eval.sampling.{name}", value, *(flag for flag, its in _SAMPLING.items() if its == name))
    if "--n-samples-per-eval-prompt" in given:
        draft.set("eval.n_samples_per_prompt", given["--n-samples-per-eval-prompt"], "--n-samples-per-eval-prompt")
    draft.set("eval.before_train", "--skip-eval-before-train" not in given, "--skip-eval-before-train")
    _sets(given, draft, sampling, files)
    _function(given, draft)
    _reward_key(given, draft)


def _sets(given: Given, draft: Draft, sampling: dict[str, Any], files: Mapping[str, str]) -> None:
    keys = {name: given[flag] for flag, name in _KEYS.items() if flag in given}
    source = "--eval-config" if "--eval-config" in given else "--eval-prompt-data"
    sets: list[dict[str, Any]] = []
    try:
        sets = _from_file(given, sampling, files) if source == "--eval-config" else _pairs(given)
    except ValueError as error:
        draft.refuse(source, str(error))
    else:
        if not sets:
            draft.refuse("--eval-interval", "there is nothing to evaluate: give --eval-prompt-data")
    if sets:
        draft.set("eval.sets", [keys | each for each in sets], source, *_KEYS)
    for flag in _KEYS:
        draft.ignore(flag, "there are no eval sets")
    draft.ignore("--eval-prompt-data", "--eval-config goes before it")


def _overrides(given: Given) -> dict[str, Any]:
    return {name: given[flag] for flag, name in _SAMPLING.items() if flag in given}


def _greedy(sampling: dict[str, Any]) -> dict[str, Any]:
    """A temperature of 0 is a choice of one token."""
    return sampling | {"temperature": 1.0, "top_k": 1} if sampling.get("temperature") == 0 else sampling


def _pairs(given: Given) -> list[dict[str, Any]]:
    words: list[str] = given["--eval-prompt-data"] or []
    if len(words) == 1:
        words = ["aime", *words]
    if len(words) % 2:
        raise ValueError(f"takes pairs of name and path, not {len(words)} values")
    return [{"name": name, "prompt_data": path} for name, path in zip(words[::2], words[1::2], strict=True)]


def _from_file(given: Given, sampling: dict[str, Any], files: Mapping[str, str]) -> list[dict[str, Any]]:
    path = given["--eval-config"]
    content = read_yaml(path, files)
    config = _mapping(content.get("eval", content), f"{path}: eval")
    defaults = _mapping(config.get("defaults") or {}, f"{path}: eval.defaults")
    datasets: Any = config.get("datasets") or []
    if isinstance(datasets, dict):
        named = _mapping(cast("Any", datasets), f"{path}: eval.datasets")
        datasets = [
            {"name": name, **(each if isinstance(each, dict) else {"path": each})} for name, each in named.items()
        ]
    if not isinstance(datasets, list):
        raise ValueError(f"{path}: eval.datasets is {datasets!r}: expected a list of sets, or a mapping of their names")
    sets: list[dict[str, Any]] = []
    for index, each in enumerate(cast("list[Any]", datasets)):
        where = f"{path}: eval.datasets[{index}]"
        sets.append(_one(where, defaults | _mapping(each, where), given, sampling))
    return sets


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r}: expected a mapping")
    for key in cast("dict[Any, Any]", value):
        if not isinstance(key, str):
            raise ValueError(f"{where} has the key {key!r}: expected names")
    return cast("dict[str, Any]", value)


def _one(where: str, told: dict[str, Any], given: Given, sampling: dict[str, Any]) -> dict[str, Any]:
    known = {"name", "path", *_SET_FIELDS, *_SET_SAMPLING, *_SET_REWARD}
    if unknown := sorted(set(told) - known):
        raise ValueError(f"{where}: {unknown[0]!r} is not supported; known: {', '.join(sorted(known))}")
    if not isinstance(told.get("name"), str) or not isinstance(told.get("path"), str):
        raise ValueError(f"{where} needs a name and a path")
    found: dict[str, Any] = {"name": told["name"], "prompt_data": told["path"]}
    found |= {field: told[key] for key, field in _SET_FIELDS.items() if told.get(key) is not None}
    own = {field: told[key] for key, field in _SET_SAMPLING.items() if told.get(key) is not None}
    for name in ("stop", "stop_token_ids"):
        if name in own and not isinstance(own[name], list):
            own[name] = [own[name]]
    if own:
        found["sampling"] = _greedy(sampling | own)
    for key in _SET_REWARD:
        if not isinstance(told.get(key) or "", str):
            raise ValueError(f"{where}: {key} is {told[key]!r}: expected text")
    if told.get("custom_rm_path"):
        found["reward"] = {"type": "custom", "function": told["custom_rm_path"]}
    elif told.get("rm_type"):
        key = given["--eval-reward-key"] or given["--reward-key"]
        found["reward"] = rule(told["rm_type"], url=given["--rm-url"], reward_key=key)
    return found


def _function(given: Given, draft: Draft) -> None:
    """slime's default is the rollout function. Its form decides whether it can be that, and only the job's driver can
    load it: the field stays unset, and what follows is said."""
    flag, rollout = "--eval-function-path", draft.get("plugins.rollout_function")
    if flag in given and not draft.settled(flag):
        draft.set("plugins.eval_function", given[flag], flag)
    elif rollout is not None and flag not in given:
        draft.remark(
            f"{flag} is not given: {rollout} evaluates too if it is written in slime's form and takes `evaluation`; "
            "else the shipped evaluation does"
        )


def _reward_key(given: Given, draft: Draft) -> None:
    flag, reward = "--eval-reward-key", draft.get(FIELD, {})
    if flag not in given:
        return
    if reward.get("type") in ("custom", "remote", "dapo"):
        draft.set("eval.reward", reward | {"reward_key": given[flag]}, flag)
    else:
        draft.ignore(flag, "the rule gives a number, not a dictionary")
