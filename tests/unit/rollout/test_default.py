"""The rollout loses no token and no prompt, holds nothing back, and says what it waited for."""

import asyncio
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engines.config import EngineConfig, SamplingConfig
from engines.errors import EngineLost
from engines.turns import Turns
from engines.types import FinishReason, Generation, Sample, SampleStatus
from tests.unit.rollout.scripted import Engine, Prompts, context
from trainers.config import RolloutConfig
from trainers.errors import DataInvalid, RolloutFailed
from trainers.rollout.buffer import Buffer
from trainers.rollout.default import generate_rollout
from trainers.rollout.filling import Filler
from trainers.rollout.protocols import RolloutContext, RolloutDoors
from trainers.rollout.rewards import Reward
from trainers.rollout.rewards.verdict import Verdict
from trainers.rollout.sampling import row_check, sampling_of


async def test_samples_are_filled_token_for_token() -> None:
    engine = Engine()
    output = await generate_rollout(context(engine, rollout_batch_size=2, n_samples_per_prompt=2), 3)
    for sample in (s for each in output.groups for s in each):
        assert sample.tokens == list(range(9, 19))
        assert sample.prompt_tokens == [9, 10]
        assert sample.rollout_log_probs == [-token / 100 for token in range(11, 19)]
        assert sample.loss_mask == [1] * 8
        assert (sample.status, sample.reward) == (SampleStatus.COMPLETED, 1.0)
    assert len({rid for _, _, rid in engine.calls}) == 4
    metrics = output.metrics
    assert [metrics[name] for name in ("num_samples", "num_tokens", "response_length", "num_left_out")] == [4, 32, 8, 0]


@given(cuts=st.lists(st.integers(0, 4), max_size=4), budget=st.integers(1, 8))
@settings(deadline=None)
def test_an_aborted_response_goes_on_from_where_it_was_cut(cuts: list[int], budget: int) -> None:
    cuts = [cut for cut in cuts if cut] or cuts[:1]  # at most one fruitless call: each costs a pause
    engine = Engine(cuts=list(cuts), end=FinishReason.LENGTH)
    output = asyncio.run(generate_rollout(context(engine, n_samples_per_prompt=1, max_new_tokens=budget), 3))
    [[sample]] = output.groups
    assert sample.tokens == list(range(9, 11 + budget))
    assert sample.rollout_log_probs == [-token / 100 for token in range(11, 11 + budget)]
    assert len(sample.weight_versions) == budget
    assert sample.weight_versions == sorted(sample.weight_versions)
    assert sample.status is SampleStatus.TRUNCATED
    for ids, remaining, _ in engine.calls:
        assert remaining == budget - (len(ids) - 2) > 0
    assert len({rid for _, _, rid in engine.calls}) == len(engine.calls)
    # The call that filled the budget ended the sample, whether or not it was cut; all others were continued.
    assert output.metrics["num_continued"] == len(engine.calls) - 1


async def test_a_slow_judge_does_not_hold_generation_back() -> None:
    engine = Engine()
    everything_generated = asyncio.Event()

    async def judge(sample: Sample) -> float:
        if len(engine.calls) == 6:
            everything_generated.set()
        await everything_generated.wait()
        return float(sample.index)

    output = await generate_rollout(context(engine, judge, n_samples_per_prompt=6, timeout_s=10), 3)
    assert [sample.reward for sample in output.groups[0]] == [0, 1, 2, 3, 4, 5]
    assert output.metrics["reward"] == 2.5
    assert output.metrics["reward_std"] == pytest.approx(statistics.pstdev(range(6)))


class Stuck(Engine):
    """Never answers for the sample of index 1."""

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
    ) -> Generation:
        if "-1-" in rid:
            await asyncio.Event().wait()
        return await super().generate(input_ids, sampling, rid=rid, max_new_tokens=max_new_tokens)


async def test_a_deadline_says_how_many_samples_waited_for_what() -> None:
    async def judge(sample: Sample) -> float:
        if sample.index == 2:
            await asyncio.Event().wait()
        return 0.0

    with pytest.raises(RolloutFailed) as raised:
        await generate_rollout(context(Stuck(), judge, n_samples_per_prompt=4, timeout_s=0.3), 3)
    assert str(raised.value) == (
        "rollout 3: 0 of 1 groups were ready after rollout.timeout_s = 0.3 s: "
        "of 4 samples 1 were generating, 1 waited for their reward"
    )


async def test_a_sample_that_was_not_judged_is_failed_and_counted() -> None:
    async def judge(sample: Sample) -> float | None:
        return None if sample.index == 1 else 4.0

    output = await generate_rollout(context(Engine(), judge, n_samples_per_prompt=3), 3)
    statuses = [sample.status for sample in output.groups[0]]
    assert statuses == [SampleStatus.COMPLETED, SampleStatus.FAILED, SampleStatus.COMPLETED]
    assert (output.metrics["reward"], output.metrics["num_left_out"]) == (4.0, 1.0)


async def test_no_judgement_at_all_is_no_reward_of_zero() -> None:
    async def judge(sample: Sample) -> None:
        return None

    output = await generate_rollout(context(Engine(), judge), 3)
    assert math.isnan(output.metrics["reward"])


async def test_an_engine_error_travels_as_itself_and_ends_the_other_requests() -> None:
    cancelled: list[str] = []

    class Failing(Engine):
        async def generate(
            self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
        ) -> Generation:
            if "-2-" in rid:
                raise EngineLost("gone")
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(rid)
            raise AssertionError("unreachable")

    with pytest.raises(EngineLost, match="gone"):
        await generate_rollout(context(Failing(), rollout_batch_size=3, n_samples_per_prompt=1, timeout_s=10), 3)
    assert sorted(cancelled) == ["rollout-3-0-0", "rollout-3-1-0"]


async def test_progress_names_what_is_waited_for() -> None:
    seen: list[str] = []
    await generate_rollout(context(Engine(), n_samples_per_prompt=3, progress=seen.append), 3)
    assert seen == ["rollout-3: 0 of 3 samples, 1 wait for their reward"], "and then no more often than once a second"


async def test_a_group_is_judged_whole_where_the_reward_takes_groups() -> None:
    judged: list[list[int]] = []

    async def judge(samples: Sequence[Sample]) -> list[Verdict | None]:
        judged.append([sample.index for sample in samples])
        return [Verdict(float(place)) for place, _ in enumerate(samples)]

    reward = Reward(None, group_judge=judge, resources=None)  # type: ignore[arg-type]
    output = await generate_rollout(context(Engine(), reward, rollout_batch_size=2, n_samples_per_prompt=3), 0)
    assert sorted(judged) == [[0, 1, 2], [3, 4, 5]]
    assert [[sample.reward for sample in group] for group in output.groups] == [[0, 1, 2], [0, 1, 2]]


async def test_a_sample_may_have_sampling_parameters_of_its_own_but_no_temperature() -> None:
    class Short(Prompts):
        metadata: ClassVar[dict[str, Any]] = {"sampling_params": {"max_new_tokens": 3, "temperature": None}}

        def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
            groups = super().next_groups(n_prompts, n_samples)
            groups[0][0].metadata = self.metadata
            return groups

    output = await generate_rollout(context(Engine(), data=Buffer(Short()), n_samples_per_prompt=2), 0)
    assert [sample.response_length for sample in output.groups[0]] == [3, 8]
    check = row_check(lambda label, metadata: None, SamplingConfig())
    check(None, Short.metadata)
    for own, words in (
        ({"temperature": 0.5}, "rollout.sampling.temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"beam": 1}, "beam"),
        ([1], "is list, expected an object"),
    ):
        Short.metadata = {"sampling_params": own}
        with pytest.raises(DataInvalid, match=words):
            await generate_rollout(context(Engine(), data=Buffer(Short())), 0)
        with pytest.raises(ValueError, match=words):  # so that the reader of the data names the row
            check(None, Short.metadata)
    warm = Sample(0, 0, "p", metadata={"sampling_params": {"temperature": 0.5}})
    assert sampling_of(warm, SamplingConfig(), evaluating=True).temperature == 0.5


async def test_a_generate_function_may_make_siblings_and_they_are_judged_too() -> None:
    async def split(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> list[Sample]:
        made: list[Sample] = []
        for _ in range(2):
            copy = Sample(sample.index, sample.group_index, "p", tokens=[9, 10], trajectory_index=sample.index)
            copy.append_sampled(await context.client.generate([9, 10], sampling, rid=f"x{sample.index}"))
            made.append(copy)
        return made

    output = await generate_rollout(context(Engine(), doors=RolloutDoors(generate=split), n_samples_per_prompt=2), 0)
    assert [sample.trajectory_index for sample in output.groups[0]] == [0, 0, 1, 1]
    assert all(sample.reward == 1.0 for sample in output.groups[0])


def picky(group: list[Sample]) -> bool:
    return group[0].group_index % 3 == 0


async def test_dropped_groups_are_made_up_for_and_the_rest_is_in_order() -> None:
    seen: list[int] = []

    async def everything(groups: list[list[Sample]], data: Any) -> None:
        seen.extend(sorted(group[0].group_index for group in groups))

    doors = RolloutDoors(dynamic_sampling_filter=picky, all_samples_process=everything)
    output = await generate_rollout(
        context(Engine(), doors=doors, rollout_batch_size=3, n_samples_per_prompt=2, over_sampling_batch_size=4), 0
    )
    assert [group[0].group_index for group in output.groups] == [0, 3, 6]
    assert output.metrics["num_groups_dropped"] == len(seen) - 3 >= 4


async def test_equal_rewards_are_not_worth_training_on() -> None:
    async def judge(sample: Sample) -> float:
        if sample.group_index % 2:
            return float(sample.index % 2)
        return 0.6 if sample.index % 2 else 0.1 + 0.2 + 0.3  # a sum of weighted rewards

    filtered = context(
        Engine(), judge, rollout_batch_size=2, n_samples_per_prompt=2, dynamic_sampling_filter="reward_nonzero_std"
    )
    output = await generate_rollout(filtered, 0)
    assert [group[0].group_index for group in output.groups] == [1, 3]


async def test_a_sample_that_takes_too_long_is_failed_and_the_others_go_on() -> None:
    output = await generate_rollout(context(Stuck(), n_samples_per_prompt=3, sample_timeout_s=0.2), 3)
    statuses = [sample.status for sample in output.groups[0]]
    assert statuses == [SampleStatus.COMPLETED, SampleStatus.FAILED, SampleStatus.COMPLETED]
    assert [sample.reward for sample in output.groups[0]] == [1.0, None, 1.0]
    assert (output.metrics["num_late"], output.metrics["num_left_out"]) == (1.0, 1.0)


async def test_the_wait_for_a_turn_is_no_part_of_a_samples_time() -> None:
    class Busy(Engine):
        turns = Turns(1)

        async def generate(self, input_ids: Sequence[int], *args: Any, rid: str, **options: Any) -> Generation:
            assert await self.turns.take(rid)
            try:
                await asyncio.sleep(5.0 if rid.startswith("rollout-0-2-") else 0.15)
                return await super().generate(input_ids, *args, rid=rid, **options)
            finally:
                self.turns.give_back()

    output = await generate_rollout(context(Busy(), n_samples_per_prompt=4, sample_timeout_s=0.3), 0)
    completed, failed = SampleStatus.COMPLETED, SampleStatus.FAILED
    assert [sample.status for sample in output.groups[0]] == [completed, completed, failed, completed]


async def test_no_request_asks_for_more_than_the_engines_context_leaves(caplog: pytest.LogCaptureFixture) -> None:
    def limited(engine: Engine, length: int) -> RolloutContext:
        whole = context(engine, n_samples_per_prompt=1)
        given = EngineConfig(sglang={"context_length": length + 6})  # SGLang keeps six back
        return replace(whole, config=whole.config.model_copy(update={"engine": given}))

    engine = Engine(cuts=[2], end=FinishReason.LENGTH)
    output = await generate_rollout(limited(engine, 7), 0)
    assert [(len(ids), budget) for ids, budget, _ in engine.calls] == [(2, 5), (4, 3)]
    assert output.groups[0][0].status is SampleStatus.TRUNCATED
    engine = Engine(cuts=[2])
    output = await generate_rollout(limited(engine, 4), 0)
    assert len(engine.calls) == 1 and output.groups[0][0].status is SampleStatus.TRUNCATED
    engine = Engine()
    output = await generate_rollout(limited(engine, 2), 0)
    assert not engine.calls and output.groups[0][0].status is SampleStatus.FAILED
    assert "leaves no room in a context of 2; data.max_prompt_len" in caplog.text


async def test_a_judge_does_not_read_the_token_that_ended_the_response() -> None:
    class Tokenizer:
        all_special_ids: ClassVar = [18]

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            assert ids == [18] and not skip_special_tokens
            return "18 "

    for end, response in ((FinishReason.STOP, "16 17 "), (FinishReason.LENGTH, "16 17 18 ")):
        told = replace(context(Engine(end=end), n_samples_per_prompt=1), tokenizer=Tokenizer())
        [[sample]] = (await generate_rollout(told, 0)).groups
        assert sample.response.endswith(f"15 {response}")
        assert sample.tokens[-1] == 18


async def test_in_an_evaluation_no_sample_is_left_out_for_being_late() -> None:
    class Slow(Engine):
        async def generate(self, *args: Any, **options: Any) -> Generation:
            await asyncio.sleep(0.3)
            return await super().generate(*args, **options)

    measuring = replace(context(Slow(), n_samples_per_prompt=2, sample_timeout_s=0.05), evaluating=True)
    filler = Filler(measuring, sampling=SamplingConfig(), reward=measuring.reward, name="eval")
    [group] = Prompts().next_groups(1, 2)
    assert [sample.status for sample in await filler.fill(group)] == [SampleStatus.COMPLETED] * 2


async def test_a_response_that_goes_on_owes_only_the_rest_of_its_least_length() -> None:
    asked: list[int] = []

    class Noting(Engine):
        async def generate(
            self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
        ) -> Generation:
            asked.append(sampling.min_new_tokens)
            return await super().generate(input_ids, sampling, rid=rid, max_new_tokens=max_new_tokens)

    sampling = {"max_new_tokens": 8, "min_new_tokens": 5}
    await generate_rollout(context(Noting(cuts=[3, 4]), n_samples_per_prompt=1, sampling=sampling), 0)
    assert asked == [5, 2, 0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_staleness": 1}, "max_staleness only applies when partial_rollout is true"),
        ({"mask_offpolicy_in_partial_rollout": True}, "only applies when partial_rollout is true"),
        ({"over_sampling_batch_size": 1, "rollout_batch_size": 2}, "must be at least rollout_batch_size"),
        ({"sample_timeout_s": 9.0, "timeout_s": 8.0}, "must not be above timeout_s"),
        ({"dynamic_sampling_filter": "reward_std"}, "neither package.module:function nor one of"),
        ({"sampling": {"max_new_tokens": 3, "min_new_tokens": 4}}, "must not be above max_new_tokens"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RolloutConfig.model_validate({"num_rollouts": 1, "rollout_batch_size": 1, **given})


async def test_aborted_samples_go_on_where_they_were_and_old_tokens_can_be_masked() -> None:
    class Slow(Engine):
        """The second prompt is still at its third token when it is aborted."""

        async def generate(
            self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
        ) -> Generation:
            if rid == "rollout-0-1-0":
                while not self.aborted:
                    await asyncio.sleep(0)
                return self.answer(input_ids, 3, rid, FinishReason.ABORT, 0)
            return await super().generate(input_ids, sampling, rid=rid, max_new_tokens=max_new_tokens)

    data = Buffer(Prompts())
    engine = Slow(version=0)
    settings: dict[str, Any] = {
        "n_samples_per_prompt": 1,
        "over_sampling_batch_size": 2,
        "partial_rollout": True,
        "mask_offpolicy_in_partial_rollout": True,
    }
    first = await generate_rollout(context(engine, data=data, **settings), 0)
    assert engine.aborted == ["rollout-0-"]
    assert [group[0].index for group in first.groups] == [0]
    assert first.metrics["num_groups_given_back"] == 1
    engine.version = 1
    engine.aborted.clear()
    second = await generate_rollout(context(engine, data=data, version=1, **settings), 1)
    [[sample]] = second.groups
    assert sample.index == 1
    assert sample.weight_versions == [0] * 3 + [1] * 5
    assert sample.loss_mask == [0] * 3 + [1] * 5
    assert sample.tokens == list(range(9, 19))
    assert second.metrics["num_groups_resumed"] == 1
    assert second.metrics["stale_fraction"] == 3 / 8
