"""The plug-ins of one run: all loaded and checked at once, adapted where they were written for slime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engines.config import SamplingConfig
from engines.types import Sample
from trainers.config import PolicyGradientConfig, RunConfig
from trainers.errors import ConfigInvalid, PluginInvalid
from trainers.plugins.call import call, guarded
from trainers.plugins.check import Checked, check
from trainers.plugins.doors import DOORS
from trainers.plugins.outputs import attempts_of, groups_of, metrics_of, numbers_of
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
            found = await self._call(name, function, context, rollout_id)
            return {str(key): groups_of(groups, f"{path}, eval set {key}") for key, groups in dict(found).items()}

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
        return self._plain("buffer_filter") if "buffer_filter" in self._checked else None

    @property
    def data_source(self) -> Callable[[Any], Source] | None:
        """Makes the user's data source, given the tokenizer."""
        if "data_source" not in self._checked:
            return None
        kind, path = self._function("data_source"), self._checked["data_source"].path

        def made(tokenizer: Any) -> Source:
            try:
                return kind(self._config, tokenizer)
            except Exception as error:  # the user's code may raise anything
                raise PluginInvalid(f"plugins.data_source: {path} raised {error!r}") from error

        return made

    def reward_function(self, path: str, *, by_group: bool) -> Callable[..., Any]:
        """The function that a reward section names, called with a sample, or with the samples of a group."""
        checked = check(path, DOORS["group_rm" if by_group else "custom_rm"])
        return self._adapted(checked)

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
        return await self._logged("custom_rollout_log_function", rollout_id, groups, metrics)

    async def eval_metrics(
        self, rollout_id: int, sets: Mapping[str, Groups], metrics: Mapping[str, float]
    ) -> dict[str, float]:
        """``custom_eval_rollout_log_function``: the metrics of the evaluation to report."""
        return await self._logged("custom_eval_rollout_log_function", rollout_id, sets, metrics)

    async def _logged(self, name: str, rollout_id: int, seen: Any, metrics: Mapping[str, float]) -> dict[str, float]:
        if name not in self._checked:
            return dict(metrics)
        found = await self._call(name, self._function(name), rollout_id, seen, dict(metrics))
        return metrics_of(found, metrics, self._checked[name].path)

    def _generate(self) -> Any:
        name = "custom_generate_function"
        function, path = self._function(name), self._checked[name].path

        async def generate(context: RolloutContext, sample: Sample, sampling: SamplingConfig) -> list[Sample]:
            found = await self._call(name, function, context, sample, sampling)
            return attempts_of(found, sample, path)

        return generate

    def _filter(self) -> Callable[[list[Sample]], bool]:
        function = self._plain("dynamic_sampling_filter")
        return lambda group: bool(function(group))

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

    async def _call(self, name: str, function: Callable[..., Any], *given: Any) -> Any:
        path = self._checked[name].path
        evaluates = name.startswith(("eval_", "custom_eval_"))
        limit = self._config.eval.timeout_s if evaluates else self._config.rollout.timeout_s
        field = "eval.timeout_s" if evaluates else "rollout.timeout_s"
        return await call(function, *given, name=path, timeout_s=limit, field=field)


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
    checked = {name: check(path, DOORS[name], field=field) for name, field, path in named(config)}
    return Plugins(config, {name: each for name, each in checked.items() if name not in _ELSEWHERE}, adapter)


_ELSEWHERE = frozenset({"custom_rm", "group_rm", "custom_loss", "custom_advantage"})
"""Checked with the others and called by those who own their sections."""


def named(config: RunConfig) -> list[tuple[str, str, str]]:
    """Door, field and path of each plug-in that the job names."""
    found = [
        (name, f"plugins.{name}", path)
        for name in type(config.plugins).model_fields
        if name in DOORS and (path := getattr(config.plugins, name)) is not None
    ]
    reward: Any = config.rollout.reward
    if (path := getattr(reward, "function", None)) is not None:
        found.append(
            ("group_rm" if getattr(reward, "group_rm", False) else "custom_rm", "rollout.reward.function", path)
        )
    keep = getattr(config.rollout, "dynamic_sampling_filter", None)
    if keep is not None and (":" in keep or "." in keep):  # the others are shipped, by name
        found.append(("dynamic_sampling_filter", "rollout.dynamic_sampling_filter", keep))
    for name in ("custom_loss", "custom_advantage"):
        if (path := getattr(config.algorithm, name, None)) is not None:
            found.append((name, f"algorithm.{name}", path))
    return found
