"""Preference pairs: a rollout of groups of two, the chosen sample and the rejected one. No engine takes part."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from trainers.config import DataConfig
from trainers.errors import DataInvalid
from trainers.rollout.data.reader import TOOLS, LabelCheck
from trainers.rollout.protocols import RolloutContext, RolloutOutput
from trainers.rollout.responses import Response, check_answer, fill
from trainers.rollout.sft import length_metrics, response_tokenizer


async def dpo_rollout(context: RolloutContext, rollout_id: int) -> RolloutOutput:
    """One group per row. Its label (``data.label_key``), or else its metadata, holds ``chosen`` and ``rejected``: text,
    or the messages that follow the prompt. The chosen sample comes first, with reward 1; the other has 0. Raises
    DataInvalid."""
    config = context.config
    tokenize = response_tokenizer(context)
    groups = context.data.next_groups(config.rollout.rollout_batch_size, 2)

    def fill_all() -> list[Response]:
        found: list[Response] = []
        for group in groups:
            where = f"rollout {rollout_id}, row of sample {group[0].index}"
            try:
                answers = preference(group[0].label, group[0].metadata)
            except ValueError as error:
                raise DataInvalid(f"{where}: {error}") from None
            for sample, answer, reward in zip(group, answers, (1.0, 0.0), strict=True):
                tools = sample.metadata.get(TOOLS)
                response = tokenize(sample.prompt, sample.tokens, answer, where=where, tools=tools)
                fill(sample, response, reward=reward, weight_version=context.weight_version)
                found.append(response)
        return found

    responses = await asyncio.to_thread(fill_all)
    return RolloutOutput(groups, length_metrics(responses))


def check_row(data: DataConfig) -> LabelCheck:
    """Before a run; what a chat template makes of an answer shows when its turn comes."""

    def check(label: Any, metadata: Mapping[str, Any]) -> None:
        for answer in preference(label, metadata):
            check_answer(answer, apply_chat_template=data.apply_chat_template)

    return check


def preference(label: Any, metadata: Mapping[str, Any]) -> tuple[Any, Any]:
    """(chosen, rejected). Raises ValueError."""
    for holder in (label, metadata):
        if isinstance(holder, Mapping):
            pair = cast("Mapping[str, Any]", holder)
            if "chosen" in pair and "rejected" in pair:
                return pair["chosen"], pair["rejected"]
    raise ValueError(
        "neither its label (data.label_key) nor its metadata (data.metadata_key) is an object with 'chosen' and "
        "'rejected'"
    )
