"""One rank of the trainer, inside its process: every call is a collective of all ranks."""

import copy
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.enums import ModelType
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.utils import get_model_config
from megatron.training import training
from megatron.training.training import get_megatron_optimizer_config, get_model, get_optimizer_param_scheduler
from torch import Tensor, nn

from trainers.config import PPOConfig, RunConfig
from trainers.megatron import checkpoint, world
from trainers.megatron.args import megatron_arguments
from trainers.megatron.async_save import AsyncSave
from trainers.megatron.critic import TrainedCritic, build_critic, values
from trainers.megatron.device import DeviceType, megatron_device
from trainers.megatron.experience import custom_advantage
from trainers.megatron.fusions import fuse
from trainers.megatron.heads import Head, Logits, LogProbs
from trainers.megatron.hf.config import read_hf_config
from trainers.megatron.hf.export import export_hf
from trainers.megatron.hf.gather import iter_hf
from trainers.megatron.hf.layout import hf_shapes
from trainers.megatron.hf.load import load_hf
from trainers.megatron.hf.ranks import Copy, position_of_rank
from trainers.megatron.hooks import HookArgs, MegatronHooks
from trainers.megatron.loss import Loss, ValueLoss, aggregation_of, loss_of
from trainers.megatron.model import build_model, named_parameters, vocab_shard
from trainers.megatron.optimizer import prepare
from trainers.megatron.packing import MicroBatch, TokenSplit, pack
from trainers.megatron.publication import Keeper
from trainers.megatron.roles import Roles, build_reference
from trainers.megatron.slime_formulas import SlimeLoss, slime_loss
from trainers.megatron.start import Checkpoint, read_owner, written_by
from trainers.megatron.step import RolloutTrainer
from trainers.megatron.timing import Timing, peak_flops
from trainers.protocols import StepStats, TrainBatch, TrainerState

log = logging.getLogger(__name__)


class Rank:
    """Model, optimizer and schedule of one rank. One per process: Megatron's state is global."""

    def __init__(
        self,
        config: RunConfig,
        *,
        run_id: str,
        rank: int,
        world_size: int,
        device: DeviceType,
        init_method: str | None = None,
        begin: Checkpoint | None,
    ):
        """Meet the other ranks, build the model and load ``begin``, or the Hugging Face weights when it is None.

        ``init_method`` as in ``torch.distributed.init_process_group``; a rank that is alone needs none. Raises
        ConfigInvalid, ModelInvalid, CheckpointInvalid or TrainerLost.
        """
        self._device: DeviceType = device
        self._timing = Timing(device)
        self._global_batch_size = config.global_batch_size
        self._trained: list[Any] = []
        self._run_id = run_id
        predecessor = None if begin is None else read_owner(begin.directory)
        self._resumed = begin is not None and written_by(begin, run_id)
        self._keeper = Keeper(run_id, config.checkpoint.keep_last, config.checkpoint.keep_every, predecessor)
        self._async_save, self._save_timeout_s = config.checkpoint.async_save, config.trainer.step_timeout_s
        self._saving: AsyncSave | None = None
        self._hf = read_hf_config(Path(config.model.hf_checkpoint))
        arguments = megatron_arguments(config, self._hf, rank=rank, world_size=world_size, device=device)
        self._args, self._notices = arguments.args, arguments.notices
        if device == "cuda":
            fuse()
        with megatron_device(device):
            try:
                world.join(
                    self._args,
                    init_method=init_method,
                    timeout_s=max(config.trainer.start_timeout_s, config.trainer.step_timeout_s),
                )
                self._hooks = MegatronHooks(config, self._args)
                self._hooks.initialized()
                self._build(config, begin)
            except BaseException:
                world.leave(self._trained)
                raise

    def _build(self, config: RunConfig, begin: Checkpoint | None) -> None:
        args, started = self._args, time.perf_counter()

        def provider(
            pre_process: bool,
            post_process: bool,
            vp_stage: int | None = None,
            config: Any = None,
            pg_collection: Any = None,
        ) -> Any:
            return build_model(
                args,
                self._hf,
                pre_process=pre_process,
                post_process=post_process,
                pg_collection=pg_collection,
                vp_stage=vp_stage,
            )

        groups = world.Groups.of_world()
        self._split = TokenSplit(
            rank=groups.context.rank(),
            size=groups.context.size(),
            group=groups.context,
            multiple_of=groups.tensor.size() if args.sequence_parallel else 1,
        )
        modules: list[nn.Module] = get_model(self._hooks.provider() or provider, ModelType.encoder_or_decoder)
        self._parameters = named_parameters(modules)
        reference = build_reference(config, args, modules, self._load_hf)
        if begin is None:
            self._load_hf(self._hf.directory)
        self._state = self._training_state(modules)
        extra_state = (
            checkpoint.load(self._state, begin, verify=config.checkpoint.verify) if begin is not None else None
        )
        log_probs = LogProbs(
            vocab_shard(args.padded_vocab_size, self._hf.vocab_size, groups.tensor),
            config.rollout.sampling.temperature,
        )
        slime_args = partial(HookArgs, args, config)
        loss = slime_loss(config.algorithm, groups, slime_args) or loss_of(config.algorithm)
        self._policy = self._trainer(config, self._state, log_probs, loss, groups, self._hooks)
        critic: TrainedCritic | None = None
        if isinstance(config.algorithm, PPOConfig):
            state = self._training_state(build_critic(args, self._hf, self._parameters), lr=config.algorithm.critic.lr)
            value_loss = ValueLoss(config.algorithm.value_clip, aggregation_of(config.algorithm))
            critic = TrainedCritic(
                state,
                self._trainer(config, state, values, value_loss, groups),
                config.algorithm.critic.num_critic_only_steps,
            )
        advantage = custom_advantage(config.algorithm, slime_args)
        self._roles = Roles(
            config.algorithm, self._state, self._policy, groups.data_parallel, reference, critic, advantage
        )
        if begin is not None:
            self._roles.restore(begin)
        self.state = TrainerState(
            next_rollout_id=0 if begin is None else begin.next_rollout_id,
            extra_state=extra_state,
            num_parameters=self._num_parameters(),
            loaded_from=str(self._hf.directory if begin is None else begin.path),
            resumed=self._resumed,
            notices=self._notices,
        )
        log.info("model ready after %.1f s, from %s", time.perf_counter() - started, self.state.loaded_from)

    def _load_hf(self, directory: Path) -> None:
        load_hf(
            replace(self._hf, directory=directory),
            self._parameters,
            position=position_of_rank(),
            padded_vocab_size=self._args.padded_vocab_size,
        )

    def _training_state(self, modules: list[Any], *, lr: float | None = None) -> checkpoint.TrainingState:
        """With an optimizer of its own: call it when the weights are there, of which it keeps float32 copies."""
        args = copy.copy(self._args)
        args.lr = args.lr if lr is None else lr
        args.min_lr = min(args.min_lr, args.lr)
        args.global_batch_size = self._global_batch_size
        optimizer_config: Any
        optimizer_config, overrides = get_megatron_optimizer_config(args)  # pyright: ignore[reportGeneralTypeIssues]
        optimizer = get_megatron_optimizer(
            optimizer_config, modules, config_overrides=overrides, use_gloo_process_groups=args.use_gloo_process_groups
        )
        prepare(optimizer)
        self._trained += modules
        with mock.patch.object(training, "get_args", lambda: args):
            scheduler = get_optimizer_param_scheduler(optimizer)
        for module in modules:
            model_config = get_model_config(module)
            model_config.grad_scale_func = optimizer.scale_loss
            model_config.finalize_model_grads_func = finalize_model_grads
            if args.overlap_grad_reduce:
                syncs = [each.no_sync for each in modules]
                model_config.no_sync_func = syncs[0] if len(syncs) == 1 else syncs
        return checkpoint.TrainingState(self._args, modules, optimizer, scheduler)

    def _trainer(
        self,
        config: RunConfig,
        state: checkpoint.TrainingState,
        head: Head,
        loss: Loss,
        groups: world.Groups,
        hooks: MegatronHooks | None = None,
    ) -> RolloutTrainer:
        assert state.optimizer is not None
        assert state.scheduler is not None
        return RolloutTrainer(
            modules=state.modules,
            head=head,
            loss=loss,
            optimizer=state.optimizer,
            scheduler=state.scheduler,
            global_batch_size=config.global_batch_size,
            groups=groups,
            timing=self._timing,
            hooks=hooks,
            loss_head=Logits() if isinstance(loss, SlimeLoss) else None,
        )

    def step(self, batch: TrainBatch) -> StepStats:
        """Train on one rollout; the stats are those of all ranks together."""
        started = time.perf_counter()
        self._hooks.begin(batch.rollout_id)
        with megatron_device(self._device):
            steps = self._pack(batch)
            stats = self._roles.train(batch.rollout_id, steps, batch.weight_version)
        stats = replace(stats, times=self._timing.take() | self._speed(batch, time.perf_counter() - started))
        log.info("rollout %d: %s, %s", batch.rollout_id, stats.times, stats.metrics)
        return stats

    def log_probs(self, batch: TrainBatch) -> list[Tensor]:
        """The policy's log-probabilities of the responses in this rank's micro-batches, in the plan's order: [R] per
        sample, float32, on the CPU."""
        found: list[Tensor] = []
        with megatron_device(self._device):
            steps = self._pack(batch)
            for packed, computed in zip(steps, self._policy.compute(steps), strict=True):
                for each, of_each in zip(packed, computed, strict=True):
                    found += of_each.cpu().split(each.cu_responses.diff().tolist())
        return found

    def _pack(self, batch: TrainBatch) -> list[list[MicroBatch]]:
        data_rank = parallel_state.get_data_parallel_rank()
        return [
            [pack([batch.samples[i] for i in members], self._device, self._split) for members in step[data_rank]]
            for step in batch.plan.steps
        ]

    def _speed(self, batch: TrainBatch, seconds: float) -> dict[str, float]:
        """Of all ranks together, over the whole rollout's training. The utilisation counts what one forward and
        backward pass needs, 6 FLOPs a parameter and token and causal attention, and neither recomputation nor passes
        for other log-probabilities."""
        lengths = [len(sample.tokens) for sample in batch.samples]
        tokens = sum(lengths)
        found = {"perf/tokens_per_s": tokens / seconds}
        peak = peak_flops("bfloat16" if self._args.bf16 else "float32")
        if peak is not None:
            attention = 6 * self._args.num_layers * self._hf.attention_width * sum(length**2 for length in lengths)
            flops = 6 * self._active_parameters() * tokens + attention
            found["perf/mfu"] = flops / seconds / (peak * self._args.world_size)
        return found

    def _active_parameters(self) -> int:
        """That a token is multiplied with: without the embedding, and of the experts those that it is sent to."""
        total = 0
        for name, shape in hf_shapes(self._hf).items():
            if "embed_tokens" in name and not self._hf.tied:
                continue
            experts = self._hf.experts
            part = experts.per_token / experts.count if experts is not None and _is_expert(name) else 1
            total += int(torch.Size(shape).numel() * part)
        return total

    def save(self, rollout_id: int, directory: Path, extra_state: dict[str, Any]) -> Path:
        """Where the checkpoint is; under ``checkpoint.async_save``, where it will be once :meth:`save_settled`."""
        saved = (self._state, rollout_id, directory, extra_state, self._keeper, self._roles.companions())
        with megatron_device(self._device):
            if not self._async_save:
                return checkpoint.save(*saved)
            if self._saving is not None:
                raise RuntimeError(f"{self._saving.target} is still being written")
            self._saving = AsyncSave(*saved, timeout_s=self._save_timeout_s)
            return self._saving.target

    def save_settled(self) -> bool:
        """Whether no checkpoint is being written any more; one that all ranks have written comes into force here.
        Raises StorageFailed."""
        saving, self._saving = self._saving, None
        if saving is None:
            return True
        with megatron_device(self._device):
            settled = saving.settle()
        if not settled:
            self._saving = saving
        return settled

    def export_hf(self, directory: Path) -> Path:
        """A collective of all ranks; rank 0 writes."""
        failure: Exception | None = None
        with megatron_device(self._device):
            if world.is_rank_zero():
                try:
                    export_hf(self._hf, self.named_tensors(), directory, run_id=self._run_id)
                except Exception as error:
                    failure = error
            else:
                self.assist()
            said = world.agree(failure)
        if failure is not None:
            raise failure
        if said is not None:
            raise RuntimeError(f"rank 0 could not export: {said}")
        return directory

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """On rank 0, the policy under Hugging Face's names. All ranks iterate to the end."""
        return iter_hf(self._hf, self._parameters, Copy.of_world(), self._args.params_dtype)

    def assist(self) -> None:
        """Take part while rank 0 reads :meth:`named_tensors`."""
        with megatron_device(self._device):
            for _ in self.named_tensors():
                pass

    def published(self, version: int) -> None:
        """The engines serve the policy's weights as ``version``."""
        with megatron_device(self._device):
            self._roles.published(version)

    def close(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.give_up()
        with megatron_device(self._device):
            world.leave(self._trained)
            self._trained.clear()

    def _num_parameters(self) -> int:
        """Of the whole model, without the vocabulary's padding."""
        return sum(int(torch.Size(shape).numel()) for shape in hf_shapes(self._hf).values())


def _is_expert(name: str) -> bool:
    return ".experts." in name
