"""Prompts, and how many rollouts they make."""

from collections.abc import Mapping

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Given


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    if "--tool-key" in given:
        if "--apply-chat-template" in given:
            draft.set("data.tool_key", given["--tool-key"], "--tool-key")
        else:
            draft.ignore("--tool-key", "tools are for the chat template: --apply-chat-template is not given")
    if "--apply-chat-template" not in given:
        kwargs = "--apply-chat-template-kwargs"
        draft.drop("data.apply_chat_template_kwargs", kwargs, "--apply-chat-template is not given")
    if "--partial-rollout" not in given:
        flag = "--mask-offpolicy-in-partial-rollout"
        draft.drop("rollout.mask_offpolicy_in_partial_rollout", flag, "only with --partial-rollout")
    if "--num-epoch" in given:
        if "--num-rollout" in given:
            draft.ignore("--num-epoch", "--num-rollout goes before it")
        else:
            draft.set("rollout.num_epochs", given["--num-epoch"], "--num-epoch")
