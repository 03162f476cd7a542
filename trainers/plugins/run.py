"""The plug-ins of one run: all loaded and checked at once, adapted where they were written for slime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from engines.config import SamplingConfig
from engines.types import Sample
from trainers.config import PolicyGradientConfig, RunConfig
from trainers.errors import ConfigInvalid, PluginInvalid
from trainers.plugins.call import call, guarded
from trainers.plugins.check import Checked, check
from trainers.plugins.doors import DOORS
from trainers.plugins.fields import named
from trainers.plugins.outputs import (
    attempts_of,
    checked_groups,
    eval_sets_of,
    groups_of,
    metrics_of,
    numbers_of,
)
from trainers.plugins.signature import takes
from trainers.plugins.source import CheckedSource
from trainers.rollout.buffer import Source
from trainers.rollout.protocols import DataSource, RolloutContext, RolloutDoors, RolloutFunction, RolloutOutput

type Groups = list[list[Sample]]


class Plugins:
    """Every function of the user's that a job names, ready to be called with Rollway's own signatures.

    What is plain runs in a thread, what takes too long or returns the wrong thing ends the run with an error that
    names it. Made by :func:`load_plugins`.
    """

    def __init__(self, config: RunConfig, checked: Mapping[str, Checked], adapter: Any) -> None:
        self._config = config
        self._checked = dict(checked)
        self._adapter = adapter

    @property
    def paths(self) -> list[str]:
        """``field: path (form)`` of each, for the record."""
        return [f"{each.door.field}: {each.path} ({each.form})" for each in self._checked.values()]

    def counted(self, config: RunConfig) -> None:
        """The prompts were counted: ``config`` says how many rollouts they make."""
        self._config = config
        self._adapter.args.counted(config.num_rollouts)

    def connect(self, base_url: str, tokenizer: Any, rollout_id: int) -> None:
        """The engines run, and the next calls belong to this rollout: functions written for slime can read it."""
        self._adapter.args.connect(base_url, tokenizer)
        self._adapter.args.shared["rollout_id"] = rollout_id

    @property
    def rollout_function(self) -> RolloutFunction | None:
        """The user's; None: the shipped one of the algorithm."""
        name = "rollout_function"
        if name not in self._checked:
            return None
        function, path = self._function(name), self._checked[name].path

        async def rollout(context: RolloutContext, rollout_id: int) -> RolloutOutput:
            found: Any = await self._call(name, function, context, rollout_id)
            if not isinstance(found, RolloutOutput):
                found = RolloutOutput(groups_of(found, path))
            return RolloutOutput(groups_of(found.groups, path), metrics_of(found.metrics, {}, path))

        return rollout

    @property
    def eval_function(self) -> Callable[[RolloutContext, int], Any] | None:
        """Returns the groups of each eval set, by name."""
        name = "eval_function"
        if name not in self._checked:
            return None
        function, path = self._function(name), self._checked[name].path

        async def evaluate(context: RolloutContext, rollout_id: int) -> dict[str, Groups]:
            return eval_sets_of(await self._call(name, function, context, rollout_id, evaluates=True), path)

        return evaluate

    @property
    def doors(self) -> RolloutDoors:
        """Those that the shipped rollout calls."""
        return RolloutDoors(
            generate=self._generate() if "custom_generate_function" in self._checked else None,
            generate_sends_by_itself=self._is_slimes("custom_generate_function"),
            dynamic_sampling_filter=self._filter() if "dynamic_sampling_filter" in self._checked else None,
            sample_filter=self._sample_filter() if "rollout_sample_filter" in self._checked else None,
            all_samples_process=self._all_samples() if "rollout_all_samples_process" in self._checked else None,
        )

    @property
    def buffer_filter(self) -> Callable[[Groups, int], Groups] | None:
        name = "buffer_filter"
        if name not in self._checked:
            return None
        function, path = self._plain(name), self._checked[name].path
        return lambda buffer, n_groups: checked_groups(function(buffer, n_groups), path)

    @property
    def data_source(self) -> Callable[[Any], Source] | None:
        """Makes the user's data source, given the tokenizer."""
        if "data_source" not in self._checked:
            return None
        kind, path = self._function("data_source"), self._checked["data_source"].path

        def made(tokenizer: Any) -> Source:
            try:
                return CheckedSource(kind(self._config, tokenizer), path)
            except Exception as error:  # the user's code may raise anything
                raise PluginInvalid(f"plugins.data_source: {path} raised {error!r}") from error

        return made

    def reward_function(self, path: str, *, by_group: bool, field: str) -> Callable[..., Any]:
        """The function that a reward section names in ``field``, called with a sample, or with the samples of a
        group."""
        return self._adapted(check(path, DOORS["group_rm" if by_group else "custom_rm"], field=field))

    async def postprocess(self, groups: Groups) -> None:
        """``rollout_data_postprocess``, if there is one."""
        name = "rollout_data_postprocess"
        if name in self._checked:
            await self._call(name, self._function(name), groups)
            groups[:] = groups_of(groups, self._checked[name].path)

    async def outcomes(self, groups: Groups) -> list[list[float]] | None:
        """``custom_reward_post_process``: what advantages are made of; None: what the algorithm makes of the
        rewards."""
        name = "custom_reward_post_process"
        if name not in self._checked:
            return None
        return numbers_of(await self._call(name, self._function(name), groups), groups, self._checked[name].path)

    async def rollout_metrics(self, rollout_id: int, groups: Groups, metrics: Mapping[str, float]) -> dict[str, float]:
        """``custom_rollout_log_function``: the metrics of the rollout to report."""
        return await self._logged("custom_rollout_log_function", rollout_id, groups, metrics, evaluates=False)

    async def eval_metrics(
        self, rollout_id: int, sets: Mapping[str, Groups], metrics: Mapping[str, float]
    ) -> dict[str, float]:
        """``custom_eval_rollout_log_function``: the metrics of the evaluation to report."""
        return await self._logged("custom_eval_rollout_log_function", rollout_id, sets, metrics, evaluates=True)

    async def _logged(
        self, name: str, rollout_id: int, seen: Any, metrics: Mapping[str, float], *, evaluates: bool
    ) -> dict[str, float]:
        if name not in self._checked:
            return dict(metrics)
        found = await self._call(name, self._function(name), rollout_id, seen, dict(metrics), evaluates=evaluates)
        return metrics_of(found, metrics, self._checked[name].path)

    def _generate(self) -> Any:
        name = "custom_generate_function"
        function, path = self._function(name), self._checked[name].path

        async def generate(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> list[Sample]:
            found = await self._call(name, function, context, sample, sampling, evaluates=context.evaluating)
            return attempts_of(found, sample, path)

        return generate

    def _filter(self) -> Callable[[list[Sample]], bool]:
        name = "dynamic_sampling_filter"
        function = self._function(name)
        return guarded(lambda group: bool(function(group)), self._checked[name].path)

    def _sample_filter(self) -> Callable[[Groups], Any]:
        name = "rollout_sample_filter"
        function = self._function(name)
        if self._is_slimes(name):
            return lambda groups: self._call(name, function, groups)

        def mask(groups: Groups) -> None:
            for group in groups:
                for sample in group:
                    if not function(sample, group):
                        sample.loss_mask = [0] * sample.response_length

        return lambda groups: self._call(name, mask, groups)

    def _all_samples(self) -> Callable[[Groups, DataSource], Any]:
        name = "rollout_all_samples_process"
        function = self._function(name)
        return lambda groups, data: self._call(name, function, groups, data)

    def _is_slimes(self, name: str) -> bool:
        return name in self._checked and self._checked[name].form == "slime"

    def _function(self, name: str) -> Callable[..., Any]:
        return self._adapted(self._checked[name])

    def _plain(self, name: str) -> Callable[..., Any]:
        return guarded(self._function(name), self._checked[name].path)

    def _adapted(self, checked: Checked) -> Callable[..., Any]:
        if checked.form == "native":
            return checked.target
        adapt = getattr(self._adapter, checked.door.name)
        return adapt(checked.target, checked.path)

    async def _call(self, name: str, function: Callable[..., Any], *given: Any, evaluates: bool = False) -> Any:
        """``evaluates``: the call is part of an evaluation, which has a limit of its own."""
        limit, field = self._config.rollout.timeout_s, "rollout.timeout_s"
        if evaluates:
            limit, field = self._config.eval.timeout_s, "eval.timeout_s"
        return await call(function, *given, name=self._checked[name].path, timeout_s=limit, field=field)


def load_plugins(config: RunConfig, *, checkpoints: str | None = None) -> Plugins:
    """Load every function that the job names and hold it against its door. ``checkpoints``: where the run saves, for
    functions written for slime. Raises :class:`PluginInvalid` that names the field, and ConfigInvalid for
    ``plugins.arguments`` that stand in the way of a field."""
    from trainers.slime_compat.adapters import Adapter
    from trainers.slime_compat.args import SlimeArgs

    algorithm = config.algorithm
    uses_log_probs = isinstance(algorithm, PolicyGradientConfig) and (
        algorithm.correction is not None or algorithm.use_rollout_log_probs
    )
    try:
        args = SlimeArgs(config, save=checkpoints)
    except ValueError as error:
        raise ConfigInvalid(str(error)) from None
    adapter = Adapter(
        args,
        needs_log_probs=uses_log_probs,
        rendered=config.data.apply_chat_template,
        reward_key=getattr(config.rollout.reward, "reward_key", None),
    )
    found = [check(path, DOORS[name], field=field) for name, field, path in named(config)]
    for each in found:
        if each.door.name in _WHOLE_SAMPLES and each.form == "slime" and config.trainer.context_parallel_size > 1:
            raise ConfigInvalid(
                f"{each.door.field}: in slime's form {each.path} sees whole samples, and trainer.context_parallel_size "
                f"({config.trainer.context_parallel_size}) splits them: set it to 1, or write {each.door.native}"
            )
    checked = {each.door.name: each for each in found if each.door.name not in _ELSEWHERE}
    if config.eval.sets and (evaluation := _evaluation(checked)) is not None:
        checked["eval_function"] = evaluation
    return Plugins(config, checked, adapter)


def _evaluation(checked: Mapping[str, Checked]) -> Checked | None:
    """What evaluates by slime's convention where the job names no function for it: a rollout function that can be told
    ``evaluation=True``. Rollway's own form is never told; the shipped evaluation goes with it."""
    rollout = checked.get("rollout_function")
    if rollout is None or rollout.form != "slime" or "eval_function" in checked:
        return None
    return replace(rollout, door=DOORS["eval_function"]) if takes(rollout.target, "evaluation") else None


_WHOLE_SAMPLES = frozenset({"custom_loss", "custom_advantage"})
_ELSEWHERE = frozenset({"custom_rm", "group_rm"}) | _WHOLE_SAMPLES
"""Checked with the others and called by those who own their sections."""
