"""The rollout loses no token, holds nothing back, and says what it waited for."""

import asyncio
import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.config import SamplingConfig
from engines.errors import EngineLost
from engines.types import FinishReason, Generation, Sample, SampleStatus
from trainers.errors import RolloutFailed
from trainers.rollout.default import RolloutStats, generate_rollout


@dataclass
class Engine:
    """Counts up from the last token, one version per call; ends early where ``cuts`` says so."""

    cuts: list[int] = field(default_factory=list[int])
    end: FinishReason = FinishReason.STOP
    length: int = 8
    calls: list[tuple[list[int], int | None, str]] = field(default_factory=list[tuple[list[int], int | None, str]])

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
    ) -> Generation:
        self.calls.append((list(input_ids), max_new_tokens, rid))
        await asyncio.sleep(0)
        version = len(self.calls)
        budget = sampling.max_new_tokens if max_new_tokens is None else max_new_tokens
        done = len(input_ids) - 2
        cut = self.cuts.pop(0) if self.cuts else None
        count = min(self.length - done, budget) if cut is None else min(cut, budget)
        ids = [input_ids[-1] + 1 + i for i in range(count)]
        return Generation(
            rid=rid,
            output_ids=ids,
            log_probs=[-token / 100 for token in ids],
            finish_reason=self.end if cut is None else FinishReason.ABORT,
            weight_version=version,
            text="".join(f"{token} " for token in ids),
        )


def group(*indices: int, number: int = 0) -> list[Sample]:
    return [Sample(index=i, group_index=number, prompt="p", tokens=[9, 10]) for i in indices]


async def one(sample: Sample) -> float:
    return 1.0


async def rolled(
    groups: list[list[Sample]],
    engine: Engine,
    reward: Callable[[Sample], Awaitable[float | None]] = one,
    *,
    timeout_s: float = 30.0,
    max_new_tokens: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[list[Sample]], RolloutStats]:
    return await generate_rollout(
        groups,
        client=engine,
        sampling=SamplingConfig(max_new_tokens=max_new_tokens),
        reward=reward,
        timeout_s=timeout_s,
        rollout_id=3,
        on_progress=on_progress,
    )


async def test_samples_are_filled_token_for_token() -> None:
    engine = Engine()
    groups, stats = await rolled([group(0, 1), group(2, 3, number=1)], engine)
    for sample in (s for each in groups for s in each):
        assert sample.tokens == list(range(9, 19))
        assert sample.prompt_tokens == [9, 10]
        assert sample.rollout_log_probs == [-token / 100 for token in range(11, 19)]
        assert sample.loss_mask == [1] * 8
        assert (sample.status, sample.reward) == (SampleStatus.COMPLETED, 1.0)
    assert len({rid for _, _, rid in engine.calls}) == 4
    assert (stats.num_samples, stats.num_tokens, stats.response_length, stats.num_left_out) == (4, 32, 8.0, 0)


@given(cuts=st.lists(st.integers(0, 4), max_size=4), budget=st.integers(1, 8))
def test_an_aborted_response_goes_on_from_where_it_was_cut(cuts: list[int], budget: int) -> None:
    cuts = [cut for cut in cuts if cut] or cuts[:1]  # at most one fruitless call: each costs a pause
    engine = Engine(cuts=list(cuts), end=FinishReason.LENGTH)
    (samples,), stats = asyncio.run(rolled([group(0)], engine, max_new_tokens=budget))
    sample = samples[0]
    assert sample.tokens == list(range(9, 11 + budget))
    assert sample.rollout_log_probs == [-token / 100 for token in range(11, 11 + budget)]
    assert len(sample.weight_versions) == budget
    assert sample.weight_versions == sorted(sample.weight_versions)
    assert sample.status is SampleStatus.TRUNCATED
    for ids, remaining, _ in engine.calls:
        assert remaining == budget - (len(ids) - 2) > 0
    assert len({rid for _, _, rid in engine.calls}) == len(engine.calls)
    # The call that filled the budget ended the sample, whether or not it was cut; all others were continued.
    assert stats.num_continued == len(engine.calls) - 1


async def test_a_slow_judge_does_not_hold_generation_back() -> None:
    engine = Engine()
    everything_generated = asyncio.Event()

    async def judge(sample: Sample) -> float:
        if len(engine.calls) == 6:
            everything_generated.set()
        await everything_generated.wait()
        return float(sample.index)

    groups, stats = await rolled([group(*range(6))], engine, judge, timeout_s=10)
    assert [sample.reward for sample in groups[0]] == [0, 1, 2, 3, 4, 5]
    assert stats.reward == 2.5
    assert stats.reward_std == pytest.approx(statistics.pstdev(range(6)))


async def test_a_deadline_says_how_many_samples_waited_for_what() -> None:
    class HalfStuck(Engine):
        async def generate(
            self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
        ) -> Generation:
            if rid.startswith("3-1-"):
                await asyncio.Event().wait()
            return await super().generate(input_ids, sampling, rid=rid, max_new_tokens=max_new_tokens)

    async def judge(sample: Sample) -> float:
        if sample.index == 2:
            await asyncio.Event().wait()
        return 0.0

    with pytest.raises(RolloutFailed) as raised:
        await rolled([group(0, 1, 2, 3)], HalfStuck(), judge, timeout_s=0.3)
    assert str(raised.value) == (
        "rollout 3: 2 of 4 samples were unfinished after rollout.timeout_s = 0.3 s: "
        "1 were generating, 1 waited for their reward"
    )


async def test_a_sample_that_was_not_judged_is_failed_and_counted() -> None:
    async def judge(sample: Sample) -> float | None:
        return None if sample.index == 1 else 4.0

    groups, stats = await rolled([group(0, 1, 2)], Engine(), judge)
    assert [s.status for s in groups[0]] == [SampleStatus.COMPLETED, SampleStatus.FAILED, SampleStatus.COMPLETED]
    assert (stats.reward, stats.num_left_out, stats.metrics()["num_left_out"]) == (4.0, 1, 1.0)


async def test_no_judgement_at_all_is_no_reward_of_zero() -> None:
    async def judge(sample: Sample) -> None:
        return None

    _, stats = await rolled([group(0, 1)], Engine(), judge)
    assert math.isnan(stats.reward)


async def test_an_engine_error_travels_as_itself_and_ends_the_other_requests() -> None:
    cancelled: list[str] = []

    class Failing(Engine):
        async def generate(
            self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
        ) -> Generation:
            if rid.startswith("3-2-"):
                raise EngineLost("gone")
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(rid)
            raise AssertionError("unreachable")

    with pytest.raises(EngineLost, match="gone"):
        await rolled([group(0, 1, 2)], Failing(), timeout_s=10)
    assert sorted(cancelled) == ["3-0-0", "3-1-0"]


async def test_progress_counts_finished_samples() -> None:
    seen: list[tuple[int, int]] = []
    await rolled([group(0, 1, 2)], Engine(), on_progress=lambda finished, total: seen.append((finished, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


async def test_truncated_responses_are_counted() -> None:
    _, stats = await rolled([group(0, 1)], Engine(end=FinishReason.LENGTH), max_new_tokens=4)
    assert (stats.truncated_fraction, stats.response_length) == (1.0, 4.0)
