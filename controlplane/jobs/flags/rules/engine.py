"""Engines, and the weights that they are sent."""

from collections.abc import Mapping

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Given

_ONLY = {
    "--update-weights-interval": 1,
    "--update-weight-mode": "full",
    "--update-weight-transport": "nccl",
    "--flush-cache-interval": 1,
}


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    if "--sglang-dtype" in given:
        names = {"half": "float16", "float": "float32"}
        draft.set("engine.dtype", names.get(given["--sglang-dtype"], given["--sglang-dtype"]), "--sglang-dtype")
    if "--sglang-enable-ep-moe" in given:
        size = draft.get("engine.sglang.ep_size", given["--rollout-num-gpus-per-engine"])
        draft.set(
            "engine.sglang.ep_size", size, "--sglang-enable-ep-moe", why=f"written as --sglang-ep-size {size} today"
        )
    if "--sglang-enable-deepep-moe" in given:
        why = "written as --sglang-moe-a2a-backend deepep today"
        draft.set("engine.sglang.moe_a2a_backend", "deepep", "--sglang-enable-deepep-moe", why=why)
    if "--rollout-max-context-len" in given:
        limits = (given["--rollout-max-context-len"], draft.get("engine.sglang.context_length"))
        draft.set(
            "engine.sglang.context_length",
            min(limit for limit in limits if limit is not None),
            "--rollout-max-context-len",
        )
    if "--update-weight-buffer-size" in given:
        size = given["--update-weight-buffer-size"] / 2**20
        draft.set("sync.bucket_mb", size, "--update-weight-buffer-size")
    timeout = "--router-request-timeout-secs"
    if "--sglang-router-request-timeout-secs" in given:
        draft.ignore(timeout, "--sglang-router-request-timeout-secs goes before it")
    elif timeout in given:
        draft.set("engine.request_timeout_s", given[timeout], timeout)
    for flag, only in _ONLY.items():
        if flag in given and given[flag] == only:
            draft.ignore(flag, "it is always so")
        else:
            draft.refuse(flag, f"not supported yet: only {only}")
