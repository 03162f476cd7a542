"""A rollout function of our own: whole groups are drawn until enough of them hold both better and worse answers, from
which there is something to learn; after a few rounds it takes what there is."""

import asyncio

from engines.types import Sample, SampleStatus
from trainers.rollout.conversation import Conversation
from trainers.rollout.protocols import RolloutContext, RolloutOutput


async def rollout(context: RolloutContext, rollout_id: int) -> RolloutOutput:
    wanted = context.config.rollout.rollout_batch_size
    rounds = int(context.config.plugins.arguments.get("rounds", 3))
    kept: list[list[Sample]] = []
    plain: list[list[Sample]] = []
    for number in range(rounds):
        if len(kept) >= wanted:
            break
        context.progress(f"rollout {rollout_id}, round {number}: {len(kept)} of {wanted} groups")
        groups = context.data.next_groups(wanted - len(kept), context.config.rollout.n_samples_per_prompt)
        for group in await asyncio.gather(*(fill_group(context, group) for group in groups)):
            (kept if len({sample.reward for sample in group}) > 1 else plain).append(group)
    missing = wanted - len(kept)
    metrics = {"contrasting_groups": float(len(kept)), "plain_groups": float(len(plain))}
    rewards = [sample.reward for group in kept + plain for sample in group if sample.reward is not None]
    if rewards:
        metrics["reward"] = sum(rewards) / len(rewards)
    return RolloutOutput(kept + plain[:missing], metrics)


async def fill_group(context: RolloutContext, group: list[Sample]) -> list[Sample]:
    return list(await asyncio.gather(*(fill(context, sample) for sample in group)))


async def fill(context: RolloutContext, sample: Sample) -> Sample:
    """One answer and its reward."""
    conversation = Conversation.begin(context, sample, context.config.rollout.sampling)
    await conversation.generate()
    answered = conversation.finish()
    answered.reward = await context.reward(answered)
    if answered.reward is None:  # its judge was too late
        answered.status = SampleStatus.FAILED
    return answered
