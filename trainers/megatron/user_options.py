"""What a job's ``trainer.megatron`` may say: options for Megatron, facts of the model, and options without effect."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainers.config import MODEL_OPTIONS, OWNED_MEGATRON_OPTIONS
from trainers.errors import ConfigInvalid
from trainers.megatron.options import ArgsProvider, default, destination, group_of, read

# Options that cannot be honoured, each with the only value that it takes.
_UNSUPPORTED: dict[str, Any] = {
    "use_megatron_fsdp": False,
    "use_torch_fsdp2": False,
    "overlap_param_gather": False,
    "optimizer_cpu_offload": False,
    "async_save": False,
    "transformer_impl": "local",
    "pipeline_model_parallel_layout": None,
    "hierarchical_context_parallel_sizes": None,
    "hybrid_context_parallel": False,
    "fp8": None,
    "mtp_num_layers": None,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "cuda_graph_impl": "none",
    "freeze_all_layers": False,
}

# Groups of Megatron's parser that only its own training loop, data loaders and other programs read.
_IDLE_GROUPS: dict[str, str] = {
    **{
        str(group): "only Megatron's own training loop reads it"
        for group in (
            *("rl", "validation", "autoresume", "biencoder", "vision", "logging", "profiling", "straggler", "sft"),
            *("workload inspector", "inference", "one logger", "In-process restart", "ft_package", "rerun engine"),
            *("fault injector", "msc", "Logits Distillation"),
        )
    },
    "data and dataloader": "data comes from rollouts",
    "tokenizer": "data comes from rollouts",
}

_PACKED = "samples are packed at their own lengths"
_OWN_LOSS = "log-probabilities are computed in chunks by the trainer itself"
_OWN_ATTENTION = "packed sequences are attended to by torch's own kernels"
_OWN_LOOP = "only Megatron's own training loop reads it"
_IDLE: dict[str, str] = {
    **dict.fromkeys(("seq_length", "encoder_seq_length", "decoder_seq_length", "max_position_embeddings"), _PACKED),
    "max_seqlen_per_dp_cp_rank": _PACKED,
    **dict.fromkeys(("cross_entropy_loss_fusion", "cross_entropy_fusion_impl", "fp16_lm_cross_entropy"), _OWN_LOSS),
    **dict.fromkeys(("attention_backend", "flash_attention_version", "use_flash_attn", "cp_comm_type"), _OWN_ATTENTION),
    "attention_softmax_in_fp32": "the kernels accumulate in float32 anyway",
    "moe_permute_fusion": "it needs Transformer Engine",
    "check_for_nan_in_loss_and_grad": "a loss or gradient that is not finite ends the job in any case",
    **dict.fromkeys(
        (
            *("rampup_batch_size", "step_batch_size_schedule", "decrease_batch_size_if_needed", "batch_size"),
            *("empty_unused_memory_level", "check_weight_hash_across_dp_replicas_interval", "check_for_large_grads"),
            *("gpu_sniff_test_interval", "train_sync_interval", "exit_interval", "exit_duration_in_mins"),
            *("exit_signal_handler", "exit_signal", "exit_signal_handler_for_dataloader", "dataloader_type"),
            *("exit_signal_handler_for_training", "manual_gc", "manual_gc_interval", "manual_gc_eval"),
            *("iterations_to_skip", "result_rejected_tracker_filename"),
            *("save_retain_interval", "exit_on_missing_checkpoint"),
            *("auto_detect_ckpt_format", "use_checkpoint_args", "non_persistent_save_interval"),
        ),
        _OWN_LOOP,
    ),
    # What follows is how slime's scripts say what is always so.
    "use_rotary_position_embeddings": "position_embedding_type says it",
    "deprecated_use_mcore_models": "there are no others",
}


@dataclass(frozen=True, slots=True)
class UserOptions:
    options: dict[str, Any]
    """By destination, for Megatron's parser."""
    notices: list[str]
    """Of each option that was accepted and has no effect, why."""


def user_options(
    given: Mapping[str, Any],
    *,
    system: Mapping[str, Any],
    architecture: Mapping[str, Any],
    provider: ArgsProvider | None,
) -> UserOptions:
    """Sort what a job gave. ``system``: options that other fields decide; ``architecture``: those of them that the
    model's config does, which may be given and must agree.

    Raises ConfigInvalid for an unknown option, with the nearest name; one that another field decides, with the field;
    one that cannot be honoured; and one that contradicts the model.
    """
    found: dict[str, Any] = {}
    notices: list[str] = []
    for name, value in given.items():
        target = destination(name, provider)
        meant = _meaning(name, target, value)
        if target in found:
            raise ConfigInvalid(f"trainer.megatron.{name}: the same option is given under another name too")
        if target in architecture or target in MODEL_OPTIONS:
            _agree(name, target, meant, architecture)
        elif target in _UNSUPPORTED:
            _refuse_unsupported(name, target, meant)
        elif target in system or target in OWNED_MEGATRON_OPTIONS:
            field = OWNED_MEGATRON_OPTIONS.get(target, "the field that decides it, or leave it out")
            raise ConfigInvalid(f"trainer.megatron.{name} is set by the system: use {field}")
        elif why := _IDLE.get(target) or _IDLE_GROUPS.get(group_of(target)):
            notices.append(f"trainer.megatron.{name} has no effect: {why}")
        else:
            found[target] = meant
    return UserOptions(found, notices)


def _meaning(name: str, target: str, value: Any) -> Any:
    """``no_rope_fusion: true`` says ``apply_rope_fusion: false``."""
    if name != target and isinstance(value, bool) and name.startswith(("no_", "disable_")):
        return not value
    return value


def _refuse_unsupported(name: str, target: str, value: Any) -> None:
    only = _UNSUPPORTED[target]
    if value != only:
        raise ConfigInvalid(
            f"trainer.megatron.{name} = {value!r} is not supported in this release; leave it out"
            + (f" or use {only!r}" if only is not None else "")
        )


def _agree(name: str, target: str, value: Any, architecture: Mapping[str, Any]) -> None:
    expected = architecture[target] if architecture.get(target) is not None else default(target)
    layers = architecture["num_layers"]
    if _normal(target, value, layers) != _normal(target, expected, layers):
        raise ConfigInvalid(
            f"trainer.megatron.{name} = {value!r} contradicts config.json of model.hf_checkpoint, which says "
            f"{expected!r}"
        )


def _normal(target: str, value: Any, num_layers: int) -> Any:
    """Equal for values that mean the same."""
    with contextlib.suppress(ValueError, TypeError, AssertionError):
        value = read(target, value)
    if target == "moe_layer_freq":
        return [int(layer % value == 0) for layer in range(num_layers)] if isinstance(value, int) else list(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return value
