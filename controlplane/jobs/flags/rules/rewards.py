"""How samples are scored."""

from collections.abc import Mapping
from typing import Any

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Given
from controlplane.jobs.flags.rules.algorithm import uses_engines

_RULES = ("deepscaler", "dapo", "math", "f1", "gpqa")
_BOXED = ("f1", "gpqa")
_FLAGS = ("--rm-type", "--custom-rm-path", "--rm-url", "--reward-key", "--group-rm")
FIELD = "rollout.reward"


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    if not uses_engines(given) and "--custom-rm-path" not in given and "--rm-type" not in given:
        for flag in _FLAGS:
            draft.ignore(flag, "this job scores nothing")
        return
    if "--custom-rm-path" in given:
        _custom(given, draft)
    elif "--rm-type" in given:
        _shipped(given, draft)
    else:
        draft.default(FIELD, {"type": "from_metadata"}, "--rm-type")
        draft.ignore("--rm-url", "only with --rm-type remote_rm")
    draft.ignore("--reward-key", "the rule gives a number, not a dictionary")
    if "--group-rm" in given and not draft.settled("--group-rm"):
        draft.refuse("--group-rm", "only a function of your own scores groups: give --custom-rm-path")


def rule(rm_type: str, *, url: str | None, reward_key: str | None) -> dict[str, Any]:
    """The section for slime's ``rm_type``. Raises ValueError."""
    name = rm_type.removeprefix("boxed_")
    if name == "remote_rm":
        if url is None:
            raise ValueError("remote_rm asks a service: give --rm-url")
        return {"type": "remote", "url": url} | ({"reward_key": reward_key} if reward_key else {})
    if name not in _RULES:
        known = ", ".join((*_RULES, "remote_rm"))
        raise ValueError(f"there is no rule {name!r} here; known: {known}. Or score with --custom-rm-path")
    section: dict[str, Any] = {"type": name}
    if name == "dapo" and reward_key:
        section["reward_key"] = reward_key
    if rm_type != name and name != "math":  # math looks for the box anyway
        if name not in _BOXED:
            raise ValueError(f"boxed_{name} is not supported: {name} finds the answer by itself")
        section["boxed"] = True
    return section


def _custom(given: Given, draft: Draft) -> None:
    draft.set(f"{FIELD}.type", "custom")
    draft.set(f"{FIELD}.function", given["--custom-rm-path"], "--custom-rm-path")
    draft.ignore("--rm-type", "--custom-rm-path goes before it, as in slime")
    if "--reward-key" in given:
        draft.set(f"{FIELD}.reward_key", given["--reward-key"], "--reward-key")
    if "--group-rm" in given:
        draft.set(f"{FIELD}.group_rm", True, "--group-rm")
    if "--rm-url" in given:
        draft.set(
            "plugins.arguments.rm_url", given["--rm-url"], "--rm-url", why="your function finds it as args.rm_url"
        )


def _shipped(given: Given, draft: Draft) -> None:
    try:
        section = rule(given["--rm-type"], url=given["--rm-url"], reward_key=given["--reward-key"])
    except ValueError as error:
        draft.refuse("--rm-type", str(error))
        return
    for name, value in section.items():
        flag = {"url": "--rm-url", "reward_key": "--reward-key"}.get(name, "--rm-type")
        draft.set(f"{FIELD}.{name}", value, flag)
    draft.ignore("--rm-url", "only with --rm-type remote_rm")
