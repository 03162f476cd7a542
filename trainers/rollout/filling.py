"""From pending samples to finished ones: each is generated as fast as the engines allow, and judged while others still
generate."""

import asyncio
import time
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from engines.config import SamplingConfig
from engines.types import Sample, SampleStatus
from trainers.errors import DataInvalid
from trainers.rollout.protocols import RewardFunction, RolloutContext

SAMPLING = "sampling_params"
"""The key of a sample's metadata that changes how it alone is sampled."""
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
        self._stopping = False
        self._shown_at = 0.0
        self.total = self.generated = self.finished = 0
        """Samples."""
        self.continued = 0
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
        """Let every request end short, with what it has; nothing is judged any more."""
        self._stopping = True
        await self._context.client.abort(f"{self._name}-")

    @property
    def _by_group(self) -> bool:
        return getattr(self._reward, "by_group", False)

    async def _fill_one(self, sample: Sample) -> list[Sample]:
        made = [sample]
        if not _has_response(sample):
            made = await self._generate(sample)
        self.generated += 1
        self._show()
        if not self._by_group:
            for each in made:
                if _has_response(each) and each.reward is None and not self._stopping:
                    begin = time.perf_counter()
                    _settle(each, await self._reward(each))
                    self.judging_s += time.perf_counter() - begin
        self.finished += 1
        self._show()
        return made

    async def _judge_group(self, group: list[Sample]) -> None:
        if self._stopping or all(sample.reward is not None for sample in group):
            return
        begin = time.perf_counter()
        reward: Any = self._reward
        for sample, value in zip(group, await reward.score_group(group), strict=True):
            _settle(sample, value)
        self.judging_s += (time.perf_counter() - begin) * len(group)

    async def _generate(self, sample: Sample) -> list[Sample]:
        sampling = sampling_of(sample, self._sampling)
        if (generate := self._context.doors.generate) is not None:
            made = await generate(self._context, sample, sampling)
            return made if isinstance(made, list) else [made]
        await self._continue(sample, sampling)
        return [sample]

    async def _continue(self, sample: Sample, sampling: SamplingConfig) -> None:
        """Sample until the policy stops or the budget is spent. An engine that is aborted, say for a weight update,
        returns what it has: the rest is sampled from there, and each token keeps the version it came from."""
        attempt = fruitless = 0
        while True:
            generation = await self._context.client.generate(
                sample.tokens,
                sampling,
                rid=f"{self._name}-{sample.index}-{attempt}",
                max_new_tokens=sampling.max_new_tokens - sample.response_length,
            )
            sample.append_sampled(generation)
            if sample.status is not SampleStatus.ABORTED:
                return
            if sample.response_length >= sampling.max_new_tokens:
                sample.status = SampleStatus.TRUNCATED
                return
            if self._stopping:
                return
            attempt += 1
            self.continued += 1
            if generation.output_ids:
                fruitless = 0
            else:
                # A paused engine may turn requests away for a while: do not spin. The caller's deadline bounds this.
                await asyncio.sleep(min(_ABORT_PAUSE_S * 2**fruitless, _MAX_ABORT_PAUSE_S))
                fruitless = min(fruitless + 1, 10)

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at >= _PROGRESS_INTERVAL_S:
            self._shown_at = now
            judging = self.generated - self.finished
            waiting = f", {judging} wait for their reward" if judging else ""
            self._context.progress(f"{self._name}: {self.finished} of {self.total} samples{waiting}")


def sampling_of(sample: Sample, sampling: SamplingConfig) -> SamplingConfig:
    """``sampling`` with what the sample's metadata says under ``sampling_params``. Raises DataInvalid for what is no
    sampling parameter, and for a temperature: the trainer computes log-probabilities with one for all."""
    own: Any = sample.metadata.get(SAMPLING)
    if own is None:
        return sampling
    where = f"sample {sample.index}: metadata[{SAMPLING!r}]"
    if not isinstance(own, dict):
        raise DataInvalid(f"{where} is {type(own).__name__}, expected an object of sampling parameters")
    if "temperature" in own:
        raise DataInvalid(f"{where} sets a temperature, which all samples share: set rollout.sampling.temperature")
    told: dict[str, Any] = sampling.model_dump() | own
    try:
        return SamplingConfig.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise DataInvalid(f"{where}: {name}: {first['msg']}") from None


def fresh(sample: Sample) -> Sample:
    """The sample as it was before anything was generated for it."""
    return replace(
        sample,
        tokens=sample.prompt_tokens,
        response="",
        response_length=0,
        reward=None,
        loss_mask=[],
        status=SampleStatus.PENDING,
        rollout_log_probs=[],
        weight_versions=[],
        metadata=dict(sample.metadata),
    )


def _has_response(sample: Sample) -> bool:
    return sample.status not in (SampleStatus.PENDING, SampleStatus.ABORTED)


def _settle(sample: Sample, reward: float | None) -> None:
    sample.reward = reward
    if reward is None:
        sample.status = SampleStatus.FAILED
