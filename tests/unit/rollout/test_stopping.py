"""What a rollout does with what still runs once it has enough: ends it, loses nothing of it, waits for none of it."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from engines.config import SamplingConfig
from engines.types import FinishReason, Generation, Sample, SampleStatus
from tests.unit.rollout.scripted import Engine, Prompts, RandomEngine, context
from trainers.errors import RolloutFailed
from trainers.rollout import default, filling, tasks
from trainers.rollout.buffer import Buffer
from trainers.rollout.default import generate_rollout
from trainers.rollout.protocols import RolloutContext, RolloutDoors


async def test_a_judge_that_hangs_on_the_surplus_holds_nothing_up() -> None:
    async def judge(sample: Sample) -> float:
        if sample.index:
            await asyncio.Event().wait()
        return 1.0

    data = Buffer(Prompts())
    over = context(Engine(), judge, data=data, n_samples_per_prompt=1, over_sampling_batch_size=3, partial_rollout=True)
    output = await asyncio.wait_for(generate_rollout(over, 0), 10)
    assert [group[0].index for group in output.groups] == [0]
    [[second], [third]] = data.next_groups(2, 1)
    assert [(s.index, s.status, s.reward) for s in (second, third)] == [
        (1, SampleStatus.COMPLETED, None),
        (2, SampleStatus.COMPLETED, None),
    ]


@pytest.mark.parametrize("by_itself", [False, True])
@pytest.mark.parametrize("raises", [asyncio.CancelledError, RuntimeError])
async def test_a_generate_function_that_waits_for_something_else_is_cancelled_when_the_rollout_has_enough(
    by_itself: bool, raises: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "GRACE_S", 0.6)
    cancelled: list[int] = []

    async def with_a_tool(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> list[Sample]:
        sample.append_sampled(await context.client.generate(sample.tokens, sampling, rid="r"))
        try:
            await (asyncio.Event().wait() if sample.index else asyncio.sleep(0))  # a tool that hangs
        except asyncio.CancelledError:
            cancelled.append(sample.index)
            raise raises from None  # some wrap it in an error of their own
        return [sample]

    data = Buffer(Prompts())
    doors = RolloutDoors(generate=with_a_tool, generate_sends_by_itself=by_itself)
    over = context(Engine(), doors=doors, data=data, n_samples_per_prompt=1, over_sampling_batch_size=3)
    begin = asyncio.get_running_loop().time()
    output = await asyncio.wait_for(generate_rollout(over, 0), 10)
    took = asyncio.get_running_loop().time() - begin
    assert [group[0].index for group in output.groups] == [0]
    assert sorted(cancelled) == [1, 2]
    assert took < 0.5 if by_itself else 0.5 < took < 3
    left = data.next_groups(2, 1)
    assert [(s.index, s.status, s.tokens) for [s] in left] == [(i, SampleStatus.PENDING, [9, 10]) for i in (1, 2)]


async def test_a_function_that_goes_on_when_it_is_cancelled_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((filling, "GRACE_S"), (default, "STOP_TIMEOUT_S"), (tasks, "PATIENCE_S")):
        monkeypatch.setattr(module, name, 0.1)
    released = asyncio.Event()

    async def stubborn(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> list[Sample]:
        sample.append_sampled(await context.client.generate(sample.tokens, sampling, rid="r"))
        while sample.index and not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()
        return [sample]

    data = Buffer(Prompts())
    doors = RolloutDoors(generate=stubborn)
    over = context(Engine(), doors=doors, data=data, n_samples_per_prompt=1, over_sampling_batch_size=2)
    output = await asyncio.wait_for(generate_rollout(over, 0), 10)
    assert [group[0].index for group in output.groups] == [0]
    [[left]] = data.next_groups(1, 1)
    assert (left.index, left.status, left.tokens) == (1, SampleStatus.PENDING, [9, 10])
    late = context(Engine(), doors=doors, data=data, n_samples_per_prompt=1, timeout_s=0.2)
    with pytest.raises(RolloutFailed, match="rollout 1: 0 of 1 groups were ready"):
        await asyncio.wait_for(generate_rollout(late, 1), 10)
    released.set()


async def test_a_rollout_that_is_ready_in_time_is_not_late_for_what_it_stops() -> None:
    class Lingering(Engine):
        """The second prompt comes back some time after it is aborted."""

        async def generate(self, *args: Any, rid: str, **options: Any) -> Generation:
            if "-1-" in rid:
                while not self.aborted:
                    await asyncio.sleep(0)
                await asyncio.sleep(0.4)
            return await super().generate(*args, rid=rid, **options)

    over = context(Lingering(), n_samples_per_prompt=1, over_sampling_batch_size=2, timeout_s=0.2)
    output = await asyncio.wait_for(generate_rollout(over, 0), 10)
    assert output.metrics["num_groups_given_back"] == 1


async def test_what_begins_anew_has_none_of_what_was_written_into_it() -> None:
    class Nested(Prompts):
        def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
            groups = super().next_groups(n_prompts, n_samples)
            for sample in (sample for group in groups for sample in group):
                sample.prompt, sample.metadata = [{"role": "user", "content": "p"}], {"turns": []}
            return groups

    async def writes(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> list[Sample]:
        assert isinstance(sample.prompt, list)
        sample.prompt.append({"role": "assistant", "content": "x"})
        sample.metadata["turns"].append("x")
        while sample.index:
            await context.client.generate(sample.tokens, sampling, rid="r")
        sample.append_sampled(await context.client.generate(sample.tokens, sampling, rid="r"))
        return [sample]

    data, doors = Buffer(Nested()), RolloutDoors(generate=writes)
    over = context(Engine(), doors=doors, data=data, n_samples_per_prompt=1, over_sampling_batch_size=2)
    await asyncio.wait_for(generate_rollout(over, 0), 10)
    [[left]] = data.next_groups(1, 1)
    assert (left.prompt, left.metadata) == ([{"role": "user", "content": "p"}], {"turns": []})


async def test_a_request_that_misses_the_abort_is_aborted_again() -> None:
    class Deaf(RandomEngine):
        """The second prompt is on its way until the rollout has tried to abort it once."""

        async def generate(
            self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
        ) -> Generation:
            if "-1-" not in rid:
                return await super().generate(input_ids, sampling, rid=rid, max_new_tokens=max_new_tokens)
            while not self.aborted:
                await asyncio.sleep(0)
            self.running[rid] = False
            while not self.running[rid]:
                await asyncio.sleep(0.01)
            return self.answer(input_ids, 2, rid, FinishReason.ABORT, 0)

    engine = Deaf()
    output = await asyncio.wait_for(
        generate_rollout(context(engine, n_samples_per_prompt=1, over_sampling_batch_size=2, partial_rollout=True), 0),
        20,
    )
    assert output.metrics["num_tokens_carried_over"] == 2
    assert engine.aborted == ["rollout-0-", "rollout-0-"]
