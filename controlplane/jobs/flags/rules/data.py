"""Prompts, and how many rollouts they make."""

from collections.abc import Mapping

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Given
from controlplane.jobs.flags.rules.algorithm import generates


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    if "--apply-chat-template" not in given:
        draft.ignore("--tool-key", "tools are for the chat template: --apply-chat-template is not given")
    elif "--tool-key" in given:
        draft.set("data.tool_key", given["--tool-key"], "--tool-key")
    else:
        draft.default("data.tool_key", given["--tool-key"], "--tool-key")
    if "--apply-chat-template" not in given:
        kwargs = "--apply-chat-template-kwargs"
        draft.drop("data.apply_chat_template_kwargs", kwargs, "--apply-chat-template is not given")
    if "--partial-rollout" not in given:
        flag = "--mask-offpolicy-in-partial-rollout"
        draft.drop("rollout.mask_offpolicy_in_partial_rollout", flag, "only with --partial-rollout")
    context, prompt = given["--rollout-max-context-len"], "--rollout-max-prompt-len"
    if context is not None and generates(given):
        if prompt not in given:
            draft.default("data.max_prompt_len", context - 1, prompt)
        elif given[prompt] >= context:
            draft.refuse(prompt, f"leaves no room for a response in --rollout-max-context-len {context}")
    if "--num-epoch" in given:
        if "--num-rollout" in given:
            draft.ignore("--num-epoch", "--num-rollout goes before it")
        else:
            draft.set("rollout.num_epochs", given["--num-epoch"], "--num-epoch")
