"""From slime's signatures to Rollway's, one adapter for each door."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from engines.config import SamplingConfig
from engines.types import Sample, SampleStatus
from trainers.errors import RolloutFailed
from trainers.plugins.call import in_thread
from trainers.plugins.outputs import share_trajectory
from trainers.plugins.signature import is_async, takes
from trainers.rollout.protocols import DataSource, RolloutContext, RolloutOutput
from trainers.slime_compat.args import SlimeArgs
from trainers.slime_compat.data import DataBuffer, SlimeDataSource
from trainers.slime_compat.modules import sampling_params
from trainers.slime_compat.sample import from_slime, number_of, to_slime

type Function = Callable[..., Any]
type Groups = list[list[Sample]]


class Adapter:
    """Slime's functions of one run. ``name`` is the plug-in's path, for errors."""

    def __init__(self, args: SlimeArgs, *, needs_log_probs: bool, rendered: bool, reward_key: str | None) -> None:
        """``needs_log_probs``: the job uses the engine's log-probabilities. ``rendered``: prompts go through a chat
        template. ``reward_key``: which number of a reward that is a dictionary counts."""
        self.args = args
        self._needs_log_probs = needs_log_probs
        self._rendered = rendered
        self._reward_key = reward_key

    def rollout_function(self, function: Function, name: str) -> Function:
        async def rollout(context: RolloutContext, rollout_id: int) -> RolloutOutput:
            found = await self._whole(function, context, rollout_id, evaluation=False)
            samples, metrics = getattr(found, "samples", found), getattr(found, "metrics", None) or {}
            if not isinstance(samples, Sequence):
                raise RolloutFailed(f"{name} returned {type(found).__name__}: expected a list of groups")
            version = context.weight_version
            return RolloutOutput([self._group(each, name, version) for each in samples], dict(metrics))

        return rollout

    def eval_function(self, function: Function, name: str) -> Function:
        async def evaluate(context: RolloutContext, rollout_id: int) -> dict[str, Groups]:
            found = await self._whole(function, context, rollout_id, evaluation=True)
            data: Any = getattr(found, "data", found)
            if not isinstance(data, Mapping):
                raise RolloutFailed(f"{name} returned {type(found).__name__}: expected rewards by eval set")
            return {str(key): self._eval_set(value, name, context.weight_version) for key, value in data.items()}

        return evaluate

    def custom_generate_function(self, function: Function, name: str) -> Function:
        asks = takes(function, "evaluation")
        turns = asyncio.Semaphore(self.args.sglang_server_concurrency * self.args.rollout_num_engines)

        async def generate(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> Sample | list[Sample]:
            self.args.connect(context.base_url, context.tokenizer)
            view = self.view(sample)
            if sample.status is not SampleStatus.ABORTED and not sample.response_length:
                view.tokens = []  # slime's functions take tokens that are there for a response to be continued
            given = sampling_params(sampling)
            told = {"evaluation": context.evaluating} if asks else {}
            async with turns:  # as in slime; what such a function sends by itself, nothing else bounds
                found = await function(self.args, view, given, **told)
            made = found if isinstance(found, list) else [found]
            ours = [self._back(each, sample, name, context.weight_version) for each in made]
            return ours if isinstance(found, list) else ours[0]

        return generate

    def custom_rm(self, function: Function, name: str) -> Function:
        if is_async(function):

            async def scored(sample: Sample) -> Any:
                return await function(self.args, self.view(sample))

            return scored
        return lambda sample: function(self.args, self.view(sample))

    def group_rm(self, function: Function, name: str) -> Function:
        if is_async(function):

            async def scored(samples: list[Sample]) -> Any:
                return await function(self.args, self._views(samples))

            return scored
        return lambda samples: function(self.args, self._views(samples))

    def dynamic_sampling_filter(self, function: Function, name: str) -> Function:
        return lambda group: function(self.args, self._views(group))

    def buffer_filter(self, function: Function, name: str) -> Function:
        def taken(buffer: Groups, n_groups: int) -> Groups:
            views = [self._views(group) for group in buffer]
            owner = {id(view): group for view, group in zip(views, buffer, strict=True)}
            of_sample = {id(member): group for view, group in zip(views, buffer, strict=True) for member in view}
            rollout_id = self.args.shared.get("rollout_id", 0)
            chosen = function(self.args, rollout_id, views, n_groups)
            taken = [owner.get(id(each)) or of_sample.get(id(each[0])) for each in chosen]
            if any(each is None for each in taken):
                raise RolloutFailed(f"{name} returned a group that is not in the buffer")
            left = {id(owner[id(view)]) for view in views if id(view) in owner}
            out = {id(each) for each in taken}
            buffer[:] = [group for group in buffer if id(group) in left and id(group) not in out]
            return [each for each in taken if each is not None]

        return taken

    def data_source(self, kind: Function, name: str) -> Function:
        return lambda config, tokenizer: SlimeDataSource(kind(self.args), name, tokenizer)

    def rollout_sample_filter(self, function: Function, name: str) -> Function:
        async def mask(groups: Groups) -> None:
            views = [self._views(group) for group in groups]
            await _called(function, self.args, views)
            for group, seen in zip(groups, views, strict=True):
                for sample, view in zip(group, seen, strict=True):
                    if view.remove_sample:
                        sample.loss_mask = [0] * sample.response_length

        return mask

    def rollout_all_samples_process(self, function: Function, name: str) -> Function:
        async def process(groups: Groups, data: DataSource) -> None:
            views = [self._views(group) for group in groups]
            await _called(function, self.args, views, DataBuffer(data, self.args, asyncio.get_running_loop()))

        return process

    def rollout_data_postprocess(self, function: Function, name: str) -> Function:
        async def process(groups: Groups) -> None:
            views = [self._views(group) for group in groups]
            await _called(function, self.args, views)
            for group, seen in zip(groups, views, strict=True):
                group[:] = [
                    self._back(view, sample, name, max(sample.weight_versions, default=0))
                    for sample, view in zip(group, seen, strict=True)
                ]

        return process

    def custom_reward_post_process(self, function: Function, name: str) -> Function:
        async def process(groups: Groups) -> list[list[float]]:
            found = await _called(function, self.args, [view for group in groups for view in self._views(group)])
            try:
                _, flat = found
                numbers = iter(list(flat))
                return [[next(numbers) for _ in group] for group in groups]
            except (TypeError, ValueError, StopIteration, RuntimeError):
                raise RolloutFailed(
                    f"{name} must return two lists, raw rewards and rewards, each with one number per sample"
                ) from None

        return process

    def custom_rollout_log_function(self, function: Function, name: str) -> Function:
        async def log(rollout_id: int, groups: Groups, metrics: dict[str, float]) -> dict[str, float] | None:
            views = [self._views(group) for group in groups]
            flat = [view for group in views for view in group]
            seconds = metrics.get("rollout_s", 0.0)
            own = dict(metrics)
            skip = await _called(function, rollout_id, self.args, flat, own, seconds)
            return {} if skip else own

        return log

    def custom_eval_rollout_log_function(self, function: Function, name: str) -> Function:
        async def log(
            rollout_id: int, sets: Mapping[str, Groups], metrics: dict[str, float]
        ) -> dict[str, float] | None:
            data: dict[str, dict[str, list[Any]]] = {}
            for key, groups in sets.items():
                samples = [sample for group in groups for sample in group]
                data[key] = {
                    "rewards": [sample.reward for sample in samples],
                    "truncated": [sample.truncated for sample in samples],
                    "samples": self._views(samples),
                }
            own = dict(metrics)
            skip = await _called(function, rollout_id, self.args, data, own)
            return {} if skip else own

        return log

    def view(self, sample: Sample) -> Any:
        """``sample`` as slime's functions see it."""
        tokenizer = self.args.shared.get("tokenizer")
        prompt: str | None = None
        if self._rendered and tokenizer is not None and sample.tokens:
            prompt = tokenizer.decode(sample.prompt_tokens, skip_special_tokens=False)
        return to_slime(sample, prompt)

    def _views(self, samples: Sequence[Sample]) -> list[Any]:
        return [self.view(sample) for sample in samples]

    async def _whole(self, function: Function, context: RolloutContext, rollout_id: int, *, evaluation: bool) -> Any:
        self.args.connect(context.base_url, context.tokenizer)
        self.args.shared["rollout_id"] = rollout_id
        buffer = DataBuffer(context.data, self.args, asyncio.get_running_loop(), view=self.view)
        told = {"evaluation": evaluation} if takes(function, "evaluation") else {}
        self._buffer = buffer
        return await _called(function, self.args, rollout_id, buffer, **told)

    def _group(self, group: Any, name: str, version: int) -> list[Sample]:
        ours: list[Sample] = []
        for member in group if isinstance(group, Sequence) else [group]:
            made = member if isinstance(member, list) else [member]
            siblings = [self._back(each, self._buffer.original(each, name), name, version) for each in made]
            share_trajectory(siblings)
            ours += siblings
        return ours

    def _eval_set(self, value: Any, name: str, version: int) -> Groups:
        """Groups from slime's parallel lists; where it gives no samples, each reward is a group of its own."""
        if not isinstance(value, Mapping):
            raise RolloutFailed(f"{name} returned {type(value).__name__} for an eval set: expected its rewards")
        samples, rewards = value.get("samples"), value.get("rewards")
        if samples is not None:
            ours = [self._back(each, self._buffer.original(each, name), name, version) for each in samples]
        elif rewards is not None:
            ours = [Sample(index=i, group_index=i, prompt="") for i in range(len(rewards))]
            cut_short = value.get("truncated") or [False] * len(ours)
            for sample, cut in _each(ours, cut_short, f"{name} returned {{}} truncated"):
                sample.status = SampleStatus.TRUNCATED if cut else SampleStatus.COMPLETED
        else:
            raise RolloutFailed(f"{name} must return rewards (or samples) for each eval set")
        if rewards is not None:
            for sample, reward in _each(ours, rewards, f"{name} returned {{}} rewards"):
                sample.reward = number_of(reward, name=name, index=sample.index, reward_key=self._reward_key)
        groups: dict[int, list[Sample]] = {}
        for sample in ours:
            groups.setdefault(sample.group_index, []).append(sample)
        return list(groups.values())

    def _back(self, made: Any, original: Sample, name: str, version: int) -> Sample:
        return from_slime(
            made,
            original,
            name=name,
            weight_version=version,
            needs_log_probs=self._needs_log_probs,
            reward_key=self._reward_key,
        )


def _each(samples: Sequence[Sample], found: Sequence[Any], said: str) -> Iterator[tuple[Sample, Any]]:
    if len(found) != len(samples):
        raise RolloutFailed(f"{said.format(len(found))} for {len(samples)} samples of an eval set")
    return zip(samples, found, strict=True)


async def _called(function: Function, *given: Any, **named: Any) -> Any:
    if is_async(function):
        return await function(*given, **named)
    return await in_thread(function, *given, **named)
