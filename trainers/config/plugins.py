"""The user's own functions: which take part, and what they may read besides the job."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from engines.config import Section


def _names_a_function(path: str) -> str:
    module, colon, name = path.partition(":")
    parts = [*module.split("."), *name.split(".")] if colon else module.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError(f"{path!r} names no function: write package.module:function, or package.module.function")
    return path


type PluginPath = Annotated[str, AfterValidator(_names_a_function)]
"""``package.module:function``, or slime's ``package.module.function``."""


_GENERATING = (
    "rollout_function",
    "custom_generate_function",
    "rollout_sample_filter",
    "rollout_all_samples_process",
)
_READING = ("data_source", "buffer_filter")
_EVALUATING = ("eval_function", "custom_eval_rollout_log_function")
_TRAINING = (
    "custom_reward_post_process",
    "custom_model_provider",
    "custom_megatron_init",
    "custom_megatron_before_log_prob_hook",
    "custom_megatron_before_train_step_hook",
)


class PluginsConfig(Section):
    """Functions of the user's, each by its path. They are found on ``runtime.python_path``; every one is loaded and
    its signature checked before any accelerator is taken. docs/plugins.md has their signatures."""

    rollout_function: PluginPath | None = None
    eval_function: PluginPath | None = None
    custom_generate_function: PluginPath | None = None
    buffer_filter: PluginPath | None = None
    data_source: PluginPath | None = None
    rollout_sample_filter: PluginPath | None = None
    rollout_all_samples_process: PluginPath | None = None
    rollout_data_postprocess: PluginPath | None = None
    custom_reward_post_process: PluginPath | None = None
    custom_rollout_log_function: PluginPath | None = None
    custom_eval_rollout_log_function: PluginPath | None = None
    custom_model_provider: PluginPath | None = None
    custom_megatron_init: PluginPath | None = None
    custom_megatron_before_log_prob_hook: PluginPath | None = None
    custom_megatron_before_train_step_hook: PluginPath | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Values for the user's functions alone: ``context.config.plugins.arguments``, and ``args.<name>`` in slime's
    form."""

    def require_callers(self, *, generates: bool, reads_data: bool, evaluates: bool, trains: bool) -> None:
        """Raises ValueError for a function that such a run never calls."""
        for names, called, why in (
            (
                _GENERATING,
                generates,
                "this run generates nothing: its algorithm or debug.load_rollouts has the samples",
            ),
            (_READING, reads_data, "this run reads no prompts: it trains on the rollouts in debug.load_rollouts"),
            (_EVALUATING, evaluates, "there is nothing to evaluate: add eval.sets"),
            (_TRAINING, trains, "this run trains nothing: debug.mode is rollout_only"),
        ):
            if not called and (name := next((name for name in names if getattr(self, name) is not None), None)):
                raise ValueError(f"plugins.{name} would never be called: {why}")

    @model_validator(mode="after")
    def _arguments_have_names(self) -> Self:
        for name in self.arguments:
            if not name.isidentifier() or name.startswith("_"):
                raise ValueError(f"plugins.arguments: {name!r} is no name that a function could read as args.<name>")
        return self
