"""Every group, sample and token is accounted for, whatever happens: runs that roll out, save, die and go on by random
schedules, with books beside them that are kept from what the engine, the judge and the data source saw alone."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engines.config import SamplingConfig
from engines.types import Generation, Sample, SampleStatus
from tests.unit.rollout.scripted import Engine, Prompts, RandomEngine, context
from trainers.rollout import filling
from trainers.rollout.buffer import Buffer
from trainers.rollout.default import generate_rollout
from trainers.rollout.protocols import RolloutContext, RolloutDoors, RolloutOutput
from trainers.rollout.rewards import Reward
from trainers.rollout.rewards.verdict import Verdict
from trainers.rollout.samples import decode_groups

LENGTH = 5
"""Tokens of a whole response."""

type Groups = list[list[Sample]]


def as_it_is(groups: Sequence[Sequence[Sample]]) -> Groups:
    """A copy that later changes do not reach."""
    lists = ("tokens", "loss_mask", "rollout_log_probs", "weight_versions")
    return [[replace(each, **{name: [*getattr(each, name)] for name in lists}) for each in group] for group in groups]


class Watched(Buffer):
    """Remembers what went out and what came back, as it was then."""

    def __init__(self, source: Prompts) -> None:
        super().__init__(source)
        self.out: Groups = []
        self.back: Groups = []

    def next_groups(self, n_prompts: int, n_samples: int) -> Groups:
        groups = super().next_groups(n_prompts, n_samples)
        self.out += as_it_is(groups)
        return groups

    def put_back(self, groups: Sequence[list[Sample]]) -> None:
        super().put_back(groups)
        self.back += as_it_is(groups)


@dataclass
class Counting(RandomEngine):
    """Remembers how many tokens it gave to which sample."""

    given: Counter[int] = field(default_factory=Counter[int])
    again: int = 0
    """Requests of the rollout's own that went on from an earlier one of the same rollout."""

    async def generate(self, input_ids: Sequence[int], *args: Any, rid: str, **options: Any) -> Generation:
        *_, index, number = (int(part) for part in rid.split("-") if part.isdigit())
        self.again += number > 0
        answer = await super().generate(input_ids, *args, rid=rid, **options)
        self.given[index] += len(answer.output_ids)
        return answer


@dataclass
class Books:
    """What became of each prompt that was ever handed out."""

    trained: list[int] = field(default_factory=list[int])
    dropped: list[int] = field(default_factory=list[int])
    waiting: Groups = field(default_factory=list[list[Sample]])
    """In the order in which they go on."""

    def copy(self) -> "Books":
        return Books([*self.trained], [*self.dropped], [*self.waiting])

    def all(self) -> list[int]:
        return sorted([*self.trained, *self.dropped, *(group[0].group_index for group in self.waiting)])


class Runs(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 2**32),
        n_samples=st.integers(1, 3),
        generated=st.sampled_from(["here", "in turns", "by itself"]),
        by_group=st.booleans(),
        partial=st.booleans(),
        max_staleness=st.sampled_from([None, 0, 1]),
        masked=st.booleans(),
    )
    def begin(
        self,
        seed: int,
        n_samples: int,
        generated: Literal["here", "in turns", "by itself"],
        by_group: bool,
        partial: bool,
        max_staleness: int | None,
        masked: bool,
    ) -> None:
        """``generated``: by the rollout, by the user's function through its client, by one that sends past it."""
        self.rng = random.Random(seed)
        self.n_samples, self.generated, self.by_group = n_samples, generated, by_group
        self.partial, self.max_staleness = partial, max_staleness if partial else None
        self.masked = masked and partial
        self.source = Prompts()
        self.data = Watched(self.source)
        self.books = Books()
        self.rollout_id = 0
        self.saved = self._state()

    @rule(
        wanted=st.integers(1, 4),
        extra=st.integers(0, 4),
        drop=st.sampled_from([None, 2, 3]),
        cut=st.sampled_from([0.0, 0.1, 0.3]),
        saves=st.booleans(),
    )
    def rolls_out(self, wanted: int, extra: int, drop: int | None, cut: float, saves: bool) -> None:
        engine = Counting(rng=self.rng, version=self.rollout_id, length=LENGTH, cut=cut)
        judge, dropped = Judge(self.rng, self.n_samples), list[int]()

        def keep(group: list[Sample]) -> bool:
            kept = drop is None or group[0].group_index % drop != 0
            if not kept:
                dropped.append(group[0].group_index)
            return kept

        generate = {"here": None, "in turns": in_two_turns, "by itself": past_the_client(engine)}[self.generated]
        staleness: dict[str, Any] = {"max_staleness": self.max_staleness} if self.partial else {}
        reward: Any = Reward(None, group_judge=judge.group, resources=AsyncExitStack()) if self.by_group else judge.one
        asked = context(
            engine,
            reward,
            data=self.data,
            doors=RolloutDoors(
                dynamic_sampling_filter=keep,
                generate=generate,
                generate_sends_by_itself=self.generated == "by itself",
            ),
            version=self.rollout_id,
            max_new_tokens=LENGTH,
            rollout_batch_size=wanted,
            n_samples_per_prompt=self.n_samples,
            over_sampling_batch_size=wanted + extra,
            partial_rollout=self.partial,
            mask_offpolicy_in_partial_rollout=self.masked,
            **staleness,
        )
        self.data.out.clear()
        self.data.back.clear()
        with patch.object(filling, "_ABORT_PAUSE_S", 0.0):
            output = asyncio.run(rolled_out(asked, self.rollout_id))
        assert engine.running == {}
        assert len(output.groups) == wanted
        self._enter(output, dropped, engine, judge)
        self.rollout_id += 1
        if saves:
            self.saved = self._state()

    @precondition(lambda self: self.rollout_id > self.saved[0])
    @rule()
    def dies(self) -> None:
        """What was rolled out since the last save was for nothing."""
        self.rollout_id, data, books = self.saved
        self.books, self.source = books.copy(), Prompts()
        self.data = Watched(self.source)
        self.data.load_state(json.loads(data))

    @invariant()
    def none_twice_none_missing(self) -> None:
        assert self.books.all() == list(range(self.source.next))
        assert decode_groups(self.data.state()["waiting"]) == self.books.waiting

    def _state(self) -> tuple[int, str, Books]:
        return self.rollout_id, json.dumps(self.data.state()), self.books.copy()

    def _enter(self, output: RolloutOutput, dropped: list[int], engine: Counting, judge: "Judge") -> None:
        """Into the books, where everything that happened agrees with them."""
        books, started, back, metrics = self.books, self.data.out, self.data.back, output.metrics
        kept = [group[0].group_index for group in output.groups]
        given_back = [group[0].group_index for group in back]

        new = range(len(books.all()), self.source.next)
        assert [group[0].group_index for group in started] == [
            *(group[0].group_index for group in books.waiting[: len(started)]),
            *new,
        ]
        resumed = started[: len(started) - len(new)]
        assert resumed == books.waiting[: len(resumed)], "they come out as they went in"
        assert sorted([*kept, *dropped, *given_back]) == sorted(group[0].group_index for group in started)
        assert (kept, given_back) == (sorted(kept), sorted(given_back))

        begun = [group for group in resumed if any(sample.status is not SampleStatus.PENDING for sample in group)]
        stale = [group for group in resumed if any(self._is_stale(sample) for sample in group)]
        assert metrics["num_groups_started"] == len(started)
        assert metrics["num_groups_dropped"] == len(dropped)
        assert metrics["num_groups_given_back"] == len(back)
        assert metrics["num_groups_resumed"] == len(begun)
        assert metrics["num_groups_restarted"] == len(stale)
        assert metrics["num_tokens_carried_over"] == sum(sample.response_length for group in back for sample in group)
        assert metrics["num_continued"] == (engine.again if self.generated == "here" else 0)

        befores = {sample.index: sample for group in started for sample in group}
        for sample in (sample for group in output.groups for sample in group):
            self._check_kept(sample, befores, engine, judge)
        for sample in (sample for group in back for sample in group):
            self._check_given_back(sample, befores[sample.index], engine)

        books.trained += kept
        books.dropped += dropped
        books.waiting = books.waiting[len(resumed) :] + back

    def _check_kept(self, sample: Sample, befores: Mapping[int, Sample], engine: Counting, judge: "Judge") -> None:
        before = befores[sample.index]
        versions = self._versions(before, engine)
        assert sample.tokens == list(range(9, 11 + LENGTH)), "each token once, whatever was cut"
        assert sample.rollout_log_probs == [-token / 100 for token in range(11, 11 + LENGTH)]
        assert sample.weight_versions == versions
        assert len(versions) == sample.response_length == LENGTH
        assert sample.loss_mask == [int(not self.masked or version == self.rollout_id) for version in versions]
        assert self.partial or set(versions) == {self.rollout_id}
        assert self.max_staleness is None or self.rollout_id - versions[0] <= self.max_staleness
        assert sample.reward == float(sample.index)
        # A group's judge compares, so a member that begins anew has all of them judged again.
        together = [each for each in befores.values() if self.by_group and each.group_index == sample.group_index]
        judged = all(each.reward is not None and not self._is_stale(each) for each in together or [before])
        assert judge.asked[sample.index] == (0 if judged else 1)

    def _check_given_back(self, sample: Sample, before: Sample, engine: Counting) -> None:
        assert len(sample.tokens) - 2 == len(sample.weight_versions) == sample.response_length
        assert sample.reward in (None, float(sample.index))
        if not self.partial:
            assert (sample.status, sample.response_length) == (SampleStatus.PENDING, 0)
        elif self.generated == "here" or sample.response_length == LENGTH:
            assert sample.weight_versions == self._versions(before, engine), "no token that was sampled is lost"
        else:  # a function of the user's that was cut has no half that could go on
            assert (sample.status, sample.response_length) == (SampleStatus.PENDING, 0)

    def _versions(self, before: Sample, engine: Counting) -> list[int]:
        held = [] if self._is_stale(before) else before.weight_versions
        return [*held, *[self.rollout_id] * engine.given[before.index]]

    def _is_stale(self, sample: Sample) -> bool:
        return self.max_staleness is not None and any(
            version < self.rollout_id - self.max_staleness for version in sample.weight_versions
        )


Runs.TestCase.settings = settings(max_examples=1000, stateful_step_count=5, deadline=None)
TestRuns = Runs.TestCase


async def rolled_out(asked: RolloutContext, rollout_id: int) -> RolloutOutput:
    try:
        return await generate_rollout(asked, rollout_id)
    finally:
        assert asyncio.all_tasks() == {asyncio.current_task()}, "something was left running"


@dataclass
class Judge:
    rng: random.Random
    n_samples: int
    asked: Counter[int] = field(default_factory=Counter[int])

    async def one(self, sample: Sample) -> float:
        self.asked[sample.index] += 1
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        assert sample.status is SampleStatus.COMPLETED
        return float(sample.index)

    async def group(self, samples: Sequence[Sample]) -> list[Verdict | None]:
        assert len(samples) == self.n_samples
        return [Verdict(await self.one(sample)) for sample in samples]


async def in_two_turns(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> list[Sample]:
    """A function of the user's that goes on after an abort, whatever it means."""
    while sample.response_length < LENGTH:
        budget = 2 if sample.response_length < 2 else LENGTH
        sample.append_sampled(
            await context.client.generate(
                sample.tokens, sampling, rid="turn", max_new_tokens=budget - sample.response_length
            )
        )
    sample.status = SampleStatus.COMPLETED
    return [sample]


def past_the_client(engine: Engine) -> Any:
    """The same, written for slime: what it sends, no abort of the rollout's finds."""

    async def generate(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> list[Sample]:
        return await in_two_turns(replace(context, client=_Unheard(engine, sample.index)), sample, sampling)

    return generate


@dataclass
class _Unheard:
    engine: Engine
    index: int
    count: int = 0

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
    ) -> Generation:
        self.count += 1
        rid = f"mine-{self.index}-{self.count}"
        return await self.engine.generate(input_ids, sampling, rid=rid, max_new_tokens=max_new_tokens)

    async def abort(self, rid: str) -> None: ...
