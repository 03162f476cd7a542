"""The user's own functions on one rank: beside the first step, every pass and every optimizer step."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from megatron.training import global_vars

from trainers.config import RunConfig
from trainers.errors import PluginInvalid
from trainers.plugins.check import check
from trainers.plugins.doors import DOORS
from trainers.plugins.signature import names_of, signature_of
from trainers.slime_compat.args import SlimeArgs

INIT = "custom_megatron_init"
BEFORE_LOG_PROB = "custom_megatron_before_log_prob_hook"
BEFORE_TRAIN_STEP = "custom_megatron_before_train_step_hook"
MODEL_PROVIDER = "custom_model_provider"


class HookArgs:
    """slime's names for the sections of the job, and behind them Megatron's own arguments, of which some only stand for
    what the job decides: its batch size, say, is not the job's. What is set is set in Megatron's, and read from
    there."""

    def __init__(self, args: Namespace, config: RunConfig) -> None:
        for name, value in {"_megatron": args, "_slime": SlimeArgs(config), "_set": set[str]()}.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        megatron, slime, changed = (object.__getattribute__(self, each) for each in ("_megatron", "_slime", "_set"))
        if hasattr(megatron, name) and (name in changed or name not in slime):
            return getattr(megatron, name)
        return getattr(slime, name)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__getattribute__(self, "_set").add(name)
        setattr(object.__getattribute__(self, "_megatron"), name, value)


class MegatronHooks:
    """Those that the job names; without any, every call does nothing. All ranks call them at the same points, so that
    they may be collective. Raises :class:`PluginInvalid` for one that cannot be loaded, and for whatever one raises."""

    def __init__(self, config: RunConfig, args: Namespace) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}
        for name in (INIT, BEFORE_LOG_PROB, BEFORE_TRAIN_STEP, MODEL_PROVIDER):
            if (path := getattr(config.plugins, name)) is not None:
                self._functions[name] = check(path, DOORS[name]).target
        self._paths = {name: getattr(config.plugins, name) for name in self._functions}
        self._args: HookArgs | None = None
        self._prefix = ""
        self._rollout_id = self._step_id = 0
        if self._functions:
            self._args = HookArgs(args, config)
            # Functions written for Megatron ask for its arguments themselves; ours are not kept there otherwise.
            global_vars.set_args(args)

    def initialized(self) -> None:
        """Megatron is ready, and no model is built yet."""
        self._call(INIT, self._args)

    def provider(self) -> Callable[..., Any] | None:
        """Builds the model in place of ours."""
        function = self._functions.get(MODEL_PROVIDER)
        if function is None:
            return None
        takes = names_of(signature_of(function))

        def provide(pre_process: bool, post_process: bool, **more: Any) -> Any:
            """``more``: vp_stage, config, pg_collection, for those that take them."""
            told = {name: value for name, value in more.items() if name in takes}
            return self._call(MODEL_PROVIDER, pre_process, post_process, **told)

        return provide

    def begin(self, rollout_id: int) -> None:
        """The steps that follow are this rollout's."""
        self._rollout_id, self._step_id = rollout_id, 0

    def labelled[**P, R](self, prefix: str, function: Callable[P, R]) -> Callable[P, R]:
        """``function``, within which passes are those of another role: ``ref_`` for the reference model."""

        def with_prefix(*args: P.args, **kwargs: P.kwargs) -> R:
            before, self._prefix = self._prefix, prefix
            try:
                return function(*args, **kwargs)
            finally:
                self._prefix = before

        return with_prefix

    def before_log_prob(self, modules: list[Any]) -> None:
        self._call(BEFORE_LOG_PROB, self._args, modules, self._prefix)

    def before_train_step(self, modules: list[Any], optimizer: Any, scheduler: Any) -> None:
        self._call(BEFORE_TRAIN_STEP, self._args, self._rollout_id, self._step_id, modules, optimizer, scheduler)
        self._step_id += 1

    def _call(self, name: str, *given: Any, **named: Any) -> Any:
        function = self._functions.get(name)
        if function is None:
            return None
        try:
            return function(*given, **named)
        except Exception as error:  # the user's code may raise anything
            raise PluginInvalid(f"plugins.{name}: {self._paths[name]} raised {error!r}") from error
