"""Supervised fine-tuning: a rollout whose responses are the data's. No engine takes part."""

import asyncio
from collections.abc import Mapping
from typing import Any

from trainers.config import DataConfig
from trainers.rollout.data.reader import TOOLS, LabelCheck
from trainers.rollout.protocols import RolloutContext, RolloutOutput
from trainers.rollout.responses import Response, ResponseTokenizer, check_answer, fill


async def sft_rollout(context: RolloutContext, rollout_id: int) -> RolloutOutput:
    """One sample per row: the answer under ``data.label_key`` (text or messages), or else what the assistant says in
    the row's own messages, in every turn. Raises DataInvalid."""
    config = context.config
    tokenize = response_tokenizer(context)
    groups = context.data.next_groups(config.rollout.rollout_batch_size, 1)

    def fill_all() -> list[Response]:
        found: list[Response] = []
        for [sample] in groups:
            where = f"rollout {rollout_id}, row of sample {sample.index}"
            tools = sample.metadata.get(TOOLS)
            response = tokenize(sample.prompt, sample.tokens, sample.label, where=where, tools=tools)
            fill(sample, response, reward=1.0, weight_version=context.weight_version)
            found.append(response)
        return found

    responses = await asyncio.to_thread(fill_all)
    return RolloutOutput(groups, length_metrics(responses))


def check_row(data: DataConfig) -> LabelCheck:
    """Before a run; what a chat template makes of an answer shows when its turn comes."""

    def check(label: Any, metadata: Mapping[str, Any]) -> None:
        check_answer(label, apply_chat_template=data.apply_chat_template)

    return check


def response_tokenizer(context: RolloutContext) -> ResponseTokenizer:
    data = context.config.data
    return ResponseTokenizer(context.tokenizer, data.apply_chat_template, data.apply_chat_template_kwargs)


def length_metrics(responses: list[Response]) -> dict[str, float]:
    """Means over responses, in tokens."""
    count = max(len(responses), 1)
    return {
        "num_samples": float(len(responses)),
        "response_length": sum(len(each.loss_mask) for each in responses) / count,
        "trained_length": sum(sum(each.loss_mask) for each in responses) / count,
    }
