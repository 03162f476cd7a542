"""The critic: the policy's architecture with a head of one output, trained beside it."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.enums import ModelType
from megatron.training.training import get_model
from torch import Tensor, nn

from trainers.megatron.checkpoint import TrainingState
from trainers.megatron.hf.config import HFModel
from trainers.megatron.model import build_model, named_parameters
from trainers.megatron.packing import MicroBatch
from trainers.megatron.step import RolloutTrainer


class ValueHead(nn.Linear):
    """Begins at 0, so that first advantages are the rewards' own, whatever the layout of the ranks."""

    def __init__(self, hidden_size: int, *, dtype: torch.dtype, device: torch.device):
        super().__init__(hidden_size, 1, bias=False, dtype=dtype, device=device)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """[R, H] → [R], float32."""
        return super().forward(input)[:, 0].float()


@dataclass(frozen=True, slots=True)
class Critic:
    """The value model as the loss sees it."""

    module: nn.Module
    """Wrapped for data parallelism."""

    def values(self, batch: MicroBatch) -> Tensor:
        """Of the state in which each response token was sampled, [R], float32."""
        return self.module(
            batch.tokens,
            batch.positions,
            None,
            packed_seq_params=batch.sequences,
            output_processor=self._output,
            output_processor_context=batch,
        )

    def _output(self, *, hidden_states: Tensor, output_layer: nn.Module, context: MicroBatch, **_: Any) -> Tensor:
        return output_layer(hidden_states[:, 0].index_select(0, context.rows))


def build_critic(args: argparse.Namespace, hf: HFModel, weights: Mapping[str, nn.Parameter]) -> Critic:
    """One rank's part, with the policy's ``weights`` (by Megatron's names) below the head."""

    def provider(pre_process: bool, post_process: bool, config: Any = None, pg_collection: Any = None) -> Any:
        model: Any = build_model(
            args,
            replace(hf, tied=False),
            pre_process=pre_process,
            post_process=post_process,
            pg_collection=pg_collection,
        )
        if post_process:
            old = model.output_layer.weight
            model.output_layer = ValueHead(hf.hidden_size, dtype=old.dtype, device=old.device)
        return model

    [module] = get_model(provider, ModelType.encoder_or_decoder)
    with torch.no_grad():
        for name, parameter in named_parameters(module).items():
            if not name.startswith("output_layer."):
                parameter.copy_(weights[name])
    return Critic(module)


@dataclass(frozen=True, slots=True)
class TrainedCritic:
    """A critic with its optimizer."""

    state: TrainingState
    trainer: RolloutTrainer
    num_critic_only_steps: int
    """Rollouts at the start of the run in which it is trained and the policy is not."""
