"""From a run's config to Megatron's arguments, through Megatron's own parser and validation."""

import argparse
import functools
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trainers.config import RunConfig
from trainers.errors import ConfigInvalid, PluginInvalid
from trainers.megatron.device import DeviceType, megatron_device
from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.hf.options import architecture_defaults, architecture_options, split_over_tensor_parallel
from trainers.megatron.options import ArgsProvider, parse, to_argv
from trainers.megatron.preset import check_preset, load_preset
from trainers.megatron.user_options import user_options
from trainers.plugins.path import resolve


@dataclass(frozen=True, slots=True)
class Arguments:
    """Megatron's, parsed and validated."""

    args: argparse.Namespace
    notices: tuple[str, ...]
    """Of each option under ``trainer.megatron`` that has no effect here, why."""


def megatron_args(
    config: RunConfig, model: HFModel, *, rank: int, world_size: int, device: DeviceType
) -> argparse.Namespace:
    """As :func:`megatron_arguments`, without the notices."""
    return megatron_arguments(config, model, rank=rank, world_size=world_size, device=device).args


def megatron_arguments(
    config: RunConfig, model: HFModel, *, rank: int, world_size: int, device: DeviceType
) -> Arguments:
    """From the config, for this rank. Raises ConfigInvalid, which names the option, for what Megatron refuses, what
    cannot be honoured or what contradicts the model, and PluginInvalid for ``trainer.extra_args_provider``; call it
    with the world size that the process group will have."""
    if config.trainer.preset is not None:
        check_preset(load_preset(config.trainer.preset), model)
    _check_parallel(config, model)
    provider = _args_provider(config.trainer.extra_args_provider)
    architecture = architecture_options(model)
    system = architecture | _system_options(config, device)
    given = user_options(config.trainer.megatron, system=system, architecture=architecture, provider=provider)
    options = _defaults(config, model, device) | given.options | system
    args = parse_options(options, rank=rank, world_size=world_size, device=device, provider=provider)
    _check_optimizer(config, args)
    if model.experts is not None:
        _check_dispatcher(args, device)
    notices = given.notices
    if config.trainer.sequence_parallel and config.trainer.tensor_model_parallel_size == 1:
        notices = [*notices, "trainer.sequence_parallel has no effect: trainer.tensor_model_parallel_size is 1"]
    return Arguments(args, tuple(notices))


def parse_options(
    options: Mapping[str, Any],
    *,
    rank: int,
    world_size: int,
    device: DeviceType,
    provider: ArgsProvider | None = None,
) -> argparse.Namespace:
    """``options``, by destination, through Megatron's parser and validation. Raises ConfigInvalid."""
    with megatron_device(device), _world(rank, world_size):
        args = parse(to_argv(options, provider), provider)
        _validate(args)
    return args


@functools.cache
def _args_provider(path: str | None) -> ArgsProvider | None:
    if path is None:
        return None
    function: Any = resolve(path)
    if not callable(function):
        raise PluginInvalid(f"trainer.extra_args_provider: {path} is not a function")

    def provide(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        try:
            found = function(parser)
        except Exception as error:  # whatever the user's function does
            raise PluginInvalid(f"trainer.extra_args_provider: {path} raised {error!r}") from error
        if not isinstance(found, argparse.ArgumentParser):
            raise PluginInvalid(f"trainer.extra_args_provider: {path} must return the parser that it is given")
        return found

    return provide


def _system_options(config: RunConfig, device: DeviceType) -> dict[str, Any]:
    """What other fields of the config decide."""
    trainer = config.trainer
    return {
        "transformer_impl": "local",
        "tensor_model_parallel_size": trainer.tensor_model_parallel_size,
        "sequence_parallel": trainer.sequence_parallel,
        "pipeline_model_parallel_size": trainer.pipeline_model_parallel_size,
        "num_virtual_stages_per_pipeline_rank": _virtual_stages(config),
        "context_parallel_size": trainer.context_parallel_size,
        "expert_model_parallel_size": trainer.expert_model_parallel_size,
        "expert_tensor_parallel_size": trainer.expert_tensor_parallel_size,
        "bf16": trainer.dtype == "bfloat16",
        "seed": trainer.seed,
        # Steps and micro-batches are planned elsewhere; Megatron only wants numbers that divide.
        "global_batch_size": config.data_parallel_size,
        "micro_batch_size": 1,
        "train_iters": max(1, config.num_rollouts) * config.steps_per_rollout,
        "lr": trainer.lr,
        "min_lr": trainer.min_lr,
        "lr_decay_style": trainer.lr_decay_style,
        "lr_warmup_iters": 0 if config.evaluates_alone else trainer.lr_warmup_steps,
        "lr_warmup_fraction": trainer.lr_warmup_fraction,
        "weight_decay": trainer.weight_decay,
        "adam_beta1": trainer.adam_beta1,
        "adam_beta2": trainer.adam_beta2,
        "adam_eps": trainer.adam_eps,
        # Without clipping the norm is measured all the same.
        "clip_grad": trainer.clip_grad or math.inf,
        # One division by the step's count of samples or tokens, after all micro-batches and ranks were summed.
        "calculate_per_token_loss": True,
        "distributed_backend": "nccl" if device == "cuda" else "gloo",
        "use_cpu_initialization": device == "cpu",
        "tokenizer_type": "NullTokenizer",
        "ckpt_format": config.checkpoint.format,
        # The default format cannot change the tensor-parallel size.
        "dist_ckpt_optim_fully_reshardable": True,
    }


def _defaults(config: RunConfig, model: HFModel, device: DeviceType) -> dict[str, Any]:
    """What a job may change under ``trainer.megatron``."""
    # Without Transformer Engine and Apex these fusions do not exist.
    absent = dict.fromkeys(("gradient_accumulation_fusion", "masked_softmax_fusion", "apply_rope_fusion"), False) | {
        "no_persist_layer_norm": True
    }
    granule = 2 * config.trainer.context_parallel_size * config.trainer.tensor_model_parallel_size
    # Compiled ones, which take a CPU minutes. That of dropout has nothing to fuse here but one addition, and getting it
    # under way takes Python longer than the GPU takes to add.
    compiled = {"bias_swiglu_fusion": device == "cuda", "bias_dropout_fusion": False}
    return (
        absent
        | compiled
        | {
            "seq_length": -(-model.max_position_embeddings // granule) * granule,
            "max_position_embeddings": model.max_position_embeddings,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            # Of interest without experts too: the other one is refused with sequences of different lengths.
            "moe_token_dispatcher_type": "alltoall",
            # The step looks at its loss and gradient norm itself.
            "check_for_nan_in_loss_and_grad": False,
            # Each replica holds its part of the optimizer's state, and checkpoints fit any layout.
            "use_distributed_optimizer": True,
            # Otherwise a checkpoint refuses another batch size or number of rollouts.
            "override_opt_param_scheduler": True,
            "distributed_timeout_minutes": max(1, int(config.trainer.step_timeout_s / 60)),
        }
        | architecture_defaults(model)
        | _dispatcher(config, model, device)
    )


def _dispatcher(config: RunConfig, model: HFModel, device: DeviceType) -> dict[str, Any]:
    """gloo cannot send experts that are themselves split what ``alltoall`` does."""
    trainer = config.trainer
    tensor, across = trainer.tensor_model_parallel_size, trainer.expert_tensor_parallel_size
    split = (tensor if across is None else across) > 1
    spread = trainer.expert_model_parallel_size > 1 or trainer.pipeline_model_parallel_size > 1
    if device == "cuda" or model.experts is None or not split or spread or tensor % (across or tensor):
        return {}
    return {"moe_token_dispatcher_type": "allgather"}


def _virtual_stages(config: RunConfig) -> int | None:
    stages = config.trainer.num_virtual_stages_per_pipeline_rank or 1
    return stages if stages > 1 else None


def _check_parallel(config: RunConfig, model: HFModel) -> None:
    trainer, experts = config.trainer, model.experts
    tensor, across = trainer.tensor_model_parallel_size, trainer.expert_tensor_parallel_size
    across = tensor if across is None else across
    for what, count in split_over_tensor_parallel(model).items():
        if count % tensor:
            raise ConfigInvalid(
                f"trainer.tensor_model_parallel_size ({tensor}) must divide the model's {what} ({count})"
            )
    if experts is None:
        if trainer.expert_model_parallel_size > 1:
            raise ConfigInvalid("trainer.expert_model_parallel_size: the model has no experts")
        return
    for field, size, what, count in (
        ("expert_model_parallel_size", trainer.expert_model_parallel_size, "experts", experts.count),
        ("expert_tensor_parallel_size", across, "moe_intermediate_size", experts.ffn_hidden_size),
    ):
        if count % size:
            raise ConfigInvalid(f"trainer.{field} ({size}) must divide the model's {what} ({count})")


def _check_optimizer(config: RunConfig, args: argparse.Namespace) -> None:
    """What Megatron only finds when it builds the optimizer and its schedule, and says by a bare assertion."""
    run = f"rollout.num_rollouts × optimizer steps each = {args.train_iters}"
    steps, over = args.train_iters, f"the whole run has ({run})"
    if args.lr_decay_iters is not None:
        steps, over = args.lr_decay_iters, "trainer.megatron.lr_decay_iters says"
    if steps < 1:
        raise ConfigInvalid(f"trainer.megatron.lr_decay_iters is {steps}: give at least 1 step")
    if args.lr_warmup_iters >= steps:
        raise ConfigInvalid(
            f"trainer.lr_warmup_steps is {args.lr_warmup_iters}, and must be below the {steps} steps that {over}"
        )
    if args.lr_decay_style == "WSD" and not 0 < args.lr_wsd_decay_iters <= steps:
        raise ConfigInvalid(
            f"trainer.megatron.lr_wsd_decay_iters is {args.lr_wsd_decay_iters}, and must be 1 to the {steps} steps "
            f"that {over}"
        )
    if args.use_distributed_optimizer and args.optimizer != "adam":
        raise ConfigInvalid(
            f"trainer.megatron.optimizer = {args.optimizer!r}: the distributed optimizer shards Adam's state alone; "
            "set trainer.megatron.use_distributed_optimizer to false too"
        )


def _check_dispatcher(args: argparse.Namespace, device: DeviceType) -> None:
    """What otherwise ends in the middle of a collective, of which one rank sends more than another waits for."""
    tensor, across, experts = (
        args.tensor_model_parallel_size,
        args.expert_tensor_parallel_size,
        args.expert_model_parallel_size,
    )
    kind = args.moe_token_dispatcher_type
    if kind == "allgather" and (experts > 1 or tensor % across):
        raise ConfigInvalid(
            "trainer.megatron.moe_token_dispatcher_type = 'allgather' gathers from ranks that have the same number of "
            f"tokens, which those of trainer.expert_model_parallel_size ({experts}) × expert_tensor_parallel_size "
            f"({across}) have not: use 'alltoall'"
        )
    if kind != "allgather" and device == "cpu" and across > 1:
        raise ConfigInvalid(
            f"trainer.expert_tensor_parallel_size ({across}): without a GPU, experts are split over tensor-parallel "
            "ranks alone, neither spread over others nor in a pipeline: set it to 1"
        )


@contextmanager
def _world(rank: int, world_size: int) -> Iterator[None]:
    """``parse_args`` reads rank and world size from the environment."""
    before = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _validate(args: argparse.Namespace) -> None:
    from megatron.training.arguments import core_transformer_config_from_args, validate_args
    from megatron.training.vocab_utils import calculate_padded_vocab_size

    try:
        validate_args(args)
        # Micro-batches differ in length, and validation has just said otherwise.
        args.variable_seq_lengths = args.pipeline_model_parallel_size > 1
        core_transformer_config_from_args(args)  # checks how options go together
    except (AssertionError, ValueError, RuntimeError) as error:
        raise ConfigInvalid(f"trainer.megatron: Megatron refuses these options: {error}") from error
    args.padded_vocab_size = calculate_padded_vocab_size(
        args.vocab_size, args.make_vocab_size_divisible_by, args.tensor_model_parallel_size
    )
