"""From pending samples to finished ones: each is generated as fast as the engines allow, and judged while others still
generate."""

import asyncio
import copy
import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engines.config import SamplingConfig
from engines.types import FinishReason, Generation, Sample, SampleStatus
from trainers.errors import RunError
from trainers.rollout.protocols import Generator, RewardFunction, RolloutContext
from trainers.rollout.sampling import sampling_of
from trainers.rollout.working_time import WorkingTime

log = logging.getLogger(__name__)

GRACE_S = 5.0
"""For a generate function whose requests were aborted to come back by itself; then it is cancelled."""
_ENOUGH = "the rollout has enough groups: this sample begins anew in a later one"
_ABORT_PAUSE_S = 0.05
_MAX_ABORT_PAUSE_S = 1.0
_PROGRESS_INTERVAL_S = 1.0


class Filler:
    """Fills groups of samples in place. ``name`` begins the id of every request, and is unique among what is in
    flight."""

    def __init__(self, context: RolloutContext, *, sampling: SamplingConfig, reward: RewardFunction, name: str) -> None:
        self._context = context
        self._sampling = sampling
        self._reward = reward
        self._name = name
        self._context_length = context.context_length
        self._special_ids = frozenset[int](getattr(context.tokenizer, "all_special_ids", ()))
        self._stopped_at: float | None = None
        self._judging: set[asyncio.Future[Any]] = set()
        self._generating: set[asyncio.Future[Any]] = set()
        """Calls of the user's generate function."""
        self._started = time.monotonic()
        self._shown_at = 0.0
        self._tokens = 0
        self.total = self.generated = self.finished = 0
        """Samples."""
        self.continued = 0
        """Times that an engine ended a response early and it was continued."""
        self.late = 0
        """Samples that took longer than ``rollout.sample_timeout_s``."""
        self.judging_s = 0.0

    async def fill(self, group: list[Sample]) -> list[Sample]:
        """The finished group: more samples than before where a generate function made siblings, and unfinished ones
        after :meth:`stop`. A sample whose judge says None is ``failed``.

        Raises whatever the client, the generate function or the reward raises, after ending the group's requests.
        """
        self.total += len(group)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._fill_one(sample)) for sample in group]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # the first cancelled the rest
        made = [sample for task in running for sample in task.result()]
        if self._by_group and all(_has_response(sample) for sample in made):
            await self._judge_group(made)
        return made

    async def stop(self) -> None:
        """Let every request end short, with what it has; nothing is judged any more. Call again while any is left:
        a request that is just on its way to an engine misses the first, and a generate function that does not come
        back is cancelled in the end."""
        now = time.monotonic()
        self._stopped_at = self._stopped_at or now
        for task in self._judging:
            task.cancel()
        if self._context.doors.generate_sends_by_itself or now - self._stopped_at >= GRACE_S:
            for task in self._generating:
                task.cancel()
        await self._context.client.abort(f"{self._name}-")

    @property
    def stopping(self) -> bool:
        return self._stopped_at is not None

    @property
    def _by_group(self) -> bool:
        return getattr(self._reward, "by_group", False)

    async def _fill_one(self, sample: Sample) -> list[Sample]:
        before = sample.response_length
        made = [sample] if _has_response(sample) else await self._generate(sample)
        self._tokens += sum(each.response_length for each in made) - before
        self.generated += 1
        self._show()
        if not self._by_group:
            for each in made:
                if _has_response(each) and each.status is not SampleStatus.FAILED and each.reward is None:
                    found = await self._judged(self._reward(each))
                    if found is not None:
                        _settle(each, found[0])
        self.finished += 1
        self._show()
        return made

    async def _judge_group(self, group: list[Sample]) -> None:
        if all(sample.reward is not None or sample.status is SampleStatus.FAILED for sample in group):
            return
        reward: Any = self._reward
        scoring: Awaitable[Sequence[float | None]] = reward.score_group(group)
        if (found := await self._judged(scoring)) is not None:
            for sample, value in zip(group, found[0], strict=True):
                if sample.status is not SampleStatus.FAILED:
                    _settle(sample, value)

    async def _judged[T](self, judging: Awaitable[T]) -> tuple[T] | None:
        """What the judge says; None when the rollout stopped first, as it does not wait for those that it leaves."""
        begin = time.perf_counter()
        try:
            return (await self._unless_stopped(judging, self._judging),)
        except RolloutStopped:
            return None
        finally:
            self.judging_s += time.perf_counter() - begin

    async def _unless_stopped[T](self, work: Awaitable[T], among: set[asyncio.Future[Any]]) -> T:
        """``work``, which :meth:`stop` finds ``among`` those that it cancels. Raises RolloutStopped then."""
        task = asyncio.ensure_future(work)
        if self.stopping:
            task.cancel()
        among.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            asking = asyncio.current_task()
            if self.stopping and not (asking is not None and asking.cancelling()):
                raise RolloutStopped(_ENOUGH) from None
            raise
        except Exception as error:
            if isinstance(task, asyncio.Task) and task.cancelling():  # what it makes of being cancelled is no failure
                raise RolloutStopped(_ENOUGH) from error
            raise
        finally:
            among.discard(task)

    async def _generate(self, sample: Sample) -> list[Sample]:
        sampling = sampling_of(sample, self._sampling, evaluating=self._context.evaluating)
        generate = self._context.doors.generate
        before = _copy(sample) if generate is not None else sample
        context = self._context  # an evaluation that left out what is late would measure the quick ones
        work = WorkingTime(None if context.evaluating else context.config.rollout.sample_timeout_s)
        try:
            async with work:
                if generate is None:
                    await self._continue(sample, sampling)
                    return [sample]
                made = await self._unless_stopped(generate(self._scoped(sample), sample, sampling), self._generating)
                return made if isinstance(made, list) else [made]
        except RolloutStopped:
            return [before]  # a conversation that was cut has no half that could go on
        except TimeoutError:
            if not work.over:
                raise
            self.late += 1
            lost = fresh(before)
            lost.status = SampleStatus.FAILED
            return [lost]

    def _scoped(self, sample: Sample) -> RolloutContext:
        client = _Scoped(self, self._context.client, f"{self._name}-{sample.index}")
        return replace(self._context, client=client)

    async def _continue(self, sample: Sample, sampling: SamplingConfig) -> None:
        """Sample until the policy stops or the budget is spent. An engine that is aborted, say for a weight update,
        returns what it has: the rest is sampled from there, and each token keeps the version it came from."""
        attempt = fruitless = 0
        budget = self._budget(sample, sampling)
        if sample.response_length >= budget:  # a smaller budget than the one it began with, or none at all
            sample.status = SampleStatus.TRUNCATED if sample.response_length else SampleStatus.FAILED
            return
        while True:
            if self.stopping:  # while it waited here
                return
            self.continued += attempt > 0
            generation = await self._context.client.generate(
                sample.tokens,
                _rest(sampling, sample.response_length),
                rid=f"{self._name}-{sample.index}-{attempt}",
                max_new_tokens=budget - sample.response_length,
            )
            sample.append_sampled(generation)
            if sample.status is not SampleStatus.ABORTED:
                self._cut_end(sample, generation)
                return
            if sample.response_length >= budget:
                sample.status = SampleStatus.TRUNCATED
                return
            attempt += 1
            if self.stopping:
                return
            if generation.output_ids:
                fruitless = 0
            else:
                # A paused engine may turn requests away for a while: do not spin. The caller's deadline bounds this.
                await asyncio.sleep(min(_ABORT_PAUSE_S * 2**fruitless, _MAX_ABORT_PAUSE_S))
                fruitless = min(fruitless + 1, 10)

    def _budget(self, sample: Sample, sampling: SamplingConfig) -> int:
        """Tokens that its response may have: at most what the engines' context leaves beside the prompt."""
        if self._context_length is None:
            return sampling.max_new_tokens
        room = self._context_length - len(sample.prompt_tokens)
        if room <= 0:
            log.warning(
                "sample %d is left out: its prompt of %d tokens leaves no room in a context of %d; data.max_prompt_len "
                "drops such prompts, engine.sglang.context_length makes room",
                *(sample.index, len(sample.prompt_tokens), self._context_length),
            )
        return min(sampling.max_new_tokens, room)

    def _cut_end(self, sample: Sample, generation: Generation) -> None:
        """The text that is judged goes without the token that ended the response, which engines leave in it where stop
        texts are given and special tokens shown."""
        ids = generation.output_ids
        if generation.finish_reason is FinishReason.STOP and ids and ids[-1] in self._special_ids:
            shown = self._context.tokenizer.decode([ids[-1]], skip_special_tokens=False)
            sample.response = sample.response.removesuffix(shown)

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at >= _PROGRESS_INTERVAL_S:
            self._shown_at = now
            judging = self.generated - self.finished
            waiting = f", {judging} wait for their reward" if judging else ""
            passed = now - self._started
            speed = f", {self._tokens / passed:.0f} tokens/s" if passed >= _PROGRESS_INTERVAL_S else ""
            self._context.progress(f"{self._name}: {self.finished} of {self.total} samples{speed}{waiting}")


class RolloutStopped(RunError):
    """The rollout has enough: it begins no more requests."""


@dataclass(slots=True)
class _Scoped:
    """The engines, for the function that generates for one sample: its requests end with the rollout's."""

    filler: Filler
    client: Generator
    name: str
    count: int = 0

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
    ) -> Generation:
        if self.filler.stopping:
            raise RolloutStopped(_ENOUGH)
        self.count += 1
        return await self.client.generate(
            input_ids, sampling, rid=f"{self.name}-{self.count}-{rid}", max_new_tokens=max_new_tokens
        )

    async def abort(self, rid: str) -> None:
        for number in range(1, self.count + 1):
            await self.client.abort(f"{self.name}-{number}-{rid}")


def _rest(sampling: SamplingConfig, spent: int) -> SamplingConfig:
    """For a response that has ``spent`` tokens."""
    if not spent or not sampling.min_new_tokens:
        return sampling
    return sampling.model_copy(update={"min_new_tokens": max(0, sampling.min_new_tokens - spent)})


def fresh(sample: Sample) -> Sample:
    """A sample as this one was before anything was generated for it; shares nothing with it that could be changed."""
    return replace(
        sample,
        prompt=_own(sample.prompt),
        label=_own(sample.label),
        tokens=sample.prompt_tokens,
        response="",
        response_length=0,
        reward=None,
        loss_mask=[],
        status=SampleStatus.PENDING,
        rollout_log_probs=[],
        weight_versions=[],
        metadata=_own(sample.metadata),
    )


def _copy(sample: Sample) -> Sample:
    return replace(
        sample,
        prompt=_own(sample.prompt),
        tokens=list(sample.tokens),
        label=_own(sample.label),
        loss_mask=list(sample.loss_mask),
        rollout_log_probs=list(sample.rollout_log_probs),
        weight_versions=list(sample.weight_versions),
        metadata=_own(sample.metadata),
    )


def _own[T](value: T) -> T:
    """Generate functions and judges may write into what a sample holds."""
    if value is None or isinstance(value, str | int | float):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # of a data source of the user's: what cannot be copied is shared
        return copy.copy(value)


def _has_response(sample: Sample) -> bool:
    return sample.status not in (SampleStatus.PENDING, SampleStatus.ABORTED)


def _settle(sample: Sample, reward: float | None) -> None:
    sample.reward = reward
    if reward is None:
        sample.status = SampleStatus.FAILED
