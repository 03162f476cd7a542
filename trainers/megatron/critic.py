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
from trainers.megatron.heads import gather_responses, predicting_rows
from trainers.megatron.hf.architecture import HFModel
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


def values(*, hidden_states: Tensor, output_layer: nn.Module, context: MicroBatch, config: Any, **_: Any) -> Tensor:
    """The critic's head: of the state in which each response token was sampled, [R], float32."""
    return gather_responses(output_layer(predicting_rows(hidden_states, context, config)), context)


def build_critic(args: argparse.Namespace, hf: HFModel, weights: Mapping[str, Tensor]) -> list[nn.Module]:
    """One rank's chunks, wrapped for data parallelism, with the policy's ``weights`` (by the whole model's names) below
    the head."""

    def provider(
        pre_process: bool,
        post_process: bool,
        vp_stage: int | None = None,
        config: Any = None,
        pg_collection: Any = None,
    ) -> Any:
        model: Any = build_model(
            args,
            replace(hf, tied=False),
            pre_process=pre_process,
            post_process=post_process,
            pg_collection=pg_collection,
            vp_stage=vp_stage,
        )
        if post_process:
            old = model.output_layer.weight
            model.output_layer = ValueHead(hf.hidden_size, dtype=old.dtype, device=old.device)
        return model

    modules: list[nn.Module] = get_model(provider, ModelType.encoder_or_decoder)
    with torch.no_grad():
        for name, parameter in named_parameters(modules).items():
            if not name.startswith("output_layer."):
                parameter.copy_(weights[name])
    return modules


@dataclass(frozen=True, slots=True)
class TrainedCritic:
    """A critic with its optimizer."""

    state: TrainingState
    trainer: RolloutTrainer
    num_critic_only_steps: int
    """Rollouts at the start of the run in which it is trained and the policy is not."""
