"""slime's ``args``: one read-only namespace over the sections of a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from trainers.config import RunConfig
from trainers.slime_compat.http import reach_directly

_CONFIG: dict[str, Callable[[RunConfig], Any]] = {
    # resources
    "actor_num_nodes": lambda c: c.resources.actor_num_nodes,
    "actor_num_gpus_per_node": lambda c: c.resources.actor_num_gpus_per_node,
    "rollout_num_gpus": lambda c: c.resources.rollout_num_gpus,
    "rollout_num_gpus_per_engine": lambda c: c.resources.rollout_num_gpus_per_engine,
    "rollout_num_engines": lambda c: c.resources.num_engines,
    "sglang_server_concurrency": lambda c: c.engine.max_concurrency,
    # model and checkpoints
    "hf_checkpoint": lambda c: c.model.hf_checkpoint,
    "load": lambda c: c.checkpoint.load,
    "save_interval": lambda c: c.checkpoint.save_interval,
    "seed": lambda c: c.trainer.seed,
    # data
    "prompt_data": lambda c: c.data.prompt_data,
    "input_key": lambda c: c.data.input_key,
    "label_key": lambda c: c.data.label_key,
    "metadata_key": lambda c: c.data.metadata_key,
    "tool_key": lambda c: c.data.tool_key,
    "apply_chat_template": lambda c: c.data.apply_chat_template,
    "apply_chat_template_kwargs": lambda c: dict(c.data.apply_chat_template_kwargs),
    "rollout_max_prompt_len": lambda c: c.data.max_prompt_len,
    "rollout_shuffle": lambda c: c.data.shuffle,
    "rollout_seed": lambda c: c.data.seed,
    "rollout_global_dataset": lambda c: True,
    # rollout
    "num_rollout": lambda c: c.rollout.num_rollouts,
    "num_epoch": lambda c: c.rollout.num_epochs,
    "rollout_batch_size": lambda c: c.rollout.rollout_batch_size,
    "n_samples_per_prompt": lambda c: c.rollout.n_samples_per_prompt,
    "global_batch_size": lambda c: c.global_batch_size,
    "over_sampling_batch_size": lambda c: c.rollout.prompts_at_a_time,
    "dynamic_sampling_filter_path": lambda c: c.rollout.dynamic_sampling_filter,
    "partial_rollout": lambda c: c.rollout.partial_rollout,
    "mask_offpolicy_in_partial_rollout": lambda c: c.rollout.mask_offpolicy_in_partial_rollout,
    "rollout_temperature": lambda c: c.rollout.sampling.temperature,
    "rollout_top_p": lambda c: c.rollout.sampling.top_p,
    "rollout_top_k": lambda c: c.rollout.sampling.top_k,
    "rollout_max_response_len": lambda c: c.rollout.sampling.max_new_tokens,
    "rollout_stop": lambda c: list(c.rollout.sampling.stop) or None,
    "rollout_stop_token_ids": lambda c: list(c.rollout.sampling.stop_token_ids) or None,
    "rollout_skip_special_tokens": lambda c: c.rollout.sampling.skip_special_tokens,
    "rollout_max_context_len": lambda c: c.engine.sglang.get("context_length"),
    "sglang_context_length": lambda c: c.engine.sglang.get("context_length"),
    # rewards
    "custom_rm_path": lambda c: getattr(c.rollout.reward, "function", None),
    "rm_type": lambda c: _RULES.get(c.rollout.reward.type, c.rollout.reward.type),
    "rm_url": lambda c: getattr(c.rollout.reward, "url", None),
    "reward_key": lambda c: None,  # a sample's reward is a number here: whatever key it had has been read
    "eval_reward_key": lambda c: None,
    "group_rm": lambda c: bool(getattr(c.rollout.reward, "group_rm", False)),
    # algorithm
    "advantage_estimator": lambda c: c.algorithm.name,
    "eps_clip": lambda c: getattr(c.algorithm, "eps_clip", None),
    "eps_clip_high": lambda c: getattr(c.algorithm, "clip_high", None),
    "eps_clip_c": lambda c: getattr(c.algorithm, "eps_clip_c", None),
    "value_clip": lambda c: getattr(c.algorithm, "value_clip", None),
    "gamma": lambda c: getattr(c.algorithm, "gamma", 1.0),
    "lambd": lambda c: getattr(c.algorithm, "lambd", 1.0),
    "entropy_coef": lambda c: getattr(c.algorithm, "entropy_coef", 0.0),
    "use_kl_loss": lambda c: _kl(c, "loss_coef", None) is not None,
    "kl_loss_coef": lambda c: _kl(c, "loss_coef", None) or 0.0,
    "kl_coef": lambda c: _kl(c, "reward_coef", None) or 0.0,
    "kl_loss_type": lambda c: _kl(c, "estimator", "k1"),
    "use_unbiased_kl": lambda c: _kl(c, "use_unbiased", False),
    "calculate_per_token_loss": lambda c: getattr(c.algorithm, "loss_aggregation", None) == "token_mean",
    "rewards_normalization": lambda c: getattr(c.algorithm, "normalize_rewards", False),
    "grpo_std_normalization": lambda c: getattr(c.algorithm, "normalize_std", False),
    "normalize_advantages": lambda c: getattr(c.algorithm, "normalize_advantages", False),
    "use_rollout_logprobs": lambda c: getattr(c.algorithm, "use_rollout_log_probs", False),
    "use_tis": lambda c: getattr(c.algorithm, "correction", None) is not None,
    # trainer
    "lr": lambda c: c.trainer.lr,
    "max_tokens_per_gpu": lambda c: c.trainer.max_tokens_per_gpu,
    "use_dynamic_batch_size": lambda c: c.trainer.use_dynamic_batch_size,
    "tensor_model_parallel_size": lambda c: c.trainer.tensor_model_parallel_size,
    "pipeline_model_parallel_size": lambda c: c.trainer.pipeline_model_parallel_size,
    "context_parallel_size": lambda c: c.trainer.context_parallel_size,
    "num_steps_per_rollout": lambda c: c.steps_per_rollout,
    # doors
    "rollout_function_path": lambda c: c.plugins.rollout_function,
    "eval_function_path": lambda c: c.plugins.eval_function or c.plugins.rollout_function,
    "custom_generate_function_path": lambda c: c.plugins.custom_generate_function,
    "buffer_filter_path": lambda c: c.plugins.buffer_filter,
    "data_source_path": lambda c: c.plugins.data_source,
    "debug_rollout_only": lambda c: c.debug.mode == "rollout_only",
    "debug_train_only": lambda c: c.debug.mode == "train_only",
    "sglang_speculative_algorithm": lambda c: c.engine.sglang.get("speculative_algorithm"),
    "sglang_enable_deterministic_inference": lambda c: c.engine.sglang.get("enable_deterministic_inference", False),
}


_ABSENT = {"use_wandb": False, "use_tensorboard": False, "colocate": False, "ci_test": False}
"""What no job does, unless ``plugins.arguments`` say it to the user's functions."""
_RULES: dict[str, str | None] = {"remote": "remote_rm", "custom": None, "from_metadata": None}
"""slime's names of rules where they are others."""
_EVAL: dict[str, str] = {
    "eval_temperature": "temperature",
    "eval_top_p": "top_p",
    "eval_top_k": "top_k",
    "eval_max_response_len": "max_new_tokens",
}
_RUNNING = ("sglang_router_ip", "sglang_router_port")


class SlimeArgs:
    """``args.<slime's name>`` from a :class:`RunConfig`, and from ``plugins.arguments``. Where the router is, is known
    once the engines run. Reading a name that is not there raises an AttributeError that says what to use; nothing can
    be written."""

    def __init__(self, config: RunConfig, *, save: str | None = None) -> None:
        known: dict[str, Any] = {name: read(config) for name, read in _CONFIG.items()}
        known["save"] = save or config.checkpoint.save
        known |= _eval_args(config)
        for name, value in config.plugins.arguments.items():
            if name in known or name in _RUNNING:
                raise ValueError(f"plugins.arguments: {name!r} is slime's name for a field of the job: set that field")
            known[name] = value
        own = object.__setattr__
        own(self, "_known", _ABSENT | known)
        own(self, "_shared", {"sampling": config.rollout.sampling})

    def connect(self, base_url: str, tokenizer: Any) -> None:
        """The engines run: say where the router is."""
        where = urlsplit(base_url)
        reach_directly(where.netloc)
        self._known["sglang_router_ip"] = where.hostname
        self._known["sglang_router_port"] = where.port or (443 if where.scheme == "https" else 80)
        self._shared["tokenizer"] = tokenizer

    def counted(self, num_rollouts: int) -> None:
        """The prompts were counted, and so the rollouts that they make."""
        self._known["num_rollout"] = num_rollouts

    @property
    def shared(self) -> dict[Any, Any]:
        """What the stand-ins of slime's modules keep for the run."""
        return self._shared

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_known", "_shared"):
            raise AttributeError(name)
        try:
            return self._known[name]
        except KeyError:
            raise AttributeError(_unknown(name)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"args.{name} cannot be set: the job's settings are read-only; keep state of your own in your "
            "module, or in sample.metadata"
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"args.{name} cannot be deleted: the job's settings are read-only")

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __dir__(self) -> list[str]:
        return sorted(self._known)

    def __repr__(self) -> str:
        return f"SlimeArgs({', '.join(sorted(self._known))})"


def _eval_args(config: RunConfig) -> dict[str, Any]:
    """eval_* from the section ``eval``, falling back to the rollout's as in slime."""
    evaluation = getattr(config, "eval", None)
    sampling = (evaluation.sampling if evaluation is not None else None) or config.rollout.sampling
    found: dict[str, Any] = {name: getattr(sampling, field) for name, field in _EVAL.items()}
    found["eval_interval"] = evaluation.interval if evaluation is not None else None
    found["n_samples_per_eval_prompt"] = evaluation.n_samples_per_prompt if evaluation is not None else 1
    sets = evaluation.sets if evaluation is not None else ()
    found["eval_prompt_data"] = [part for each in sets for part in (each.name, each.prompt_data)] or None
    return found


def _kl(config: RunConfig, field: str, default: Any) -> Any:
    return getattr(getattr(config.algorithm, "kl", None), field, default)


def _unknown(name: str) -> str:
    if name in _RUNNING:
        return f"args.{name} is not known before the engines run: read it inside the function, not while it is loaded"
    import difflib

    near = difflib.get_close_matches(name, [*_CONFIG, *_EVAL, *_RUNNING, "save"], n=1)
    hint = f" (the nearest is args.{near[0]})" if near else ""
    return (
        f"args has no {name!r}{hint}: a value of your own goes into plugins.arguments; every field of the job is in "
        "context.config for a function with Rollway's own signature"
    )
