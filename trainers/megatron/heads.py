"""What the last stage of a model makes of its hidden states: log-probabilities of the responses, or whatever another
head gives one of per response token."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor, nn

from trainers.megatron.logprobs import VocabShard, log_probs_of_hidden
from trainers.megatron.packing import MicroBatch


class Head(Protocol):
    """Called by a model's last stage; its outputs are the same on all tensor- and context-parallel ranks."""

    def __call__(
        self,
        *,
        hidden_states: Tensor,
        output_layer: nn.Module,
        output_weight: Tensor | None,
        context: MicroBatch,
        config: Any,
        **_: Any,
    ) -> Any:
        """``hidden_states`` as the decoder leaves them; ``output_weight`` is the embedding's where it is shared."""
        ...


def run_model(module: nn.Module, batch: MicroBatch, head: Head) -> Any:
    """One chunk of a model on one micro-batch: the last gives what ``head`` does, the others hidden states."""
    return module(
        batch.tokens,
        batch.positions,
        None,
        packed_seq_params=batch.sequences,
        output_processor=head,
        output_processor_context=batch,
    )


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Log-probability of every response token and the entropy of its distribution, [R] each, float32."""

    shard: VocabShard
    temperature: float
    """Of the distribution that was sampled."""

    def __call__(
        self,
        *,
        hidden_states: Tensor,
        output_layer: nn.Module,
        output_weight: Tensor | None,
        context: MicroBatch,
        config: Any,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        # All ranks of the vocabulary use the same rows: on the way back their gradients are summed, once.
        hidden: Any = copy_to_tensor_model_parallel_region(predicting_rows(hidden_states, context, config))
        weight: Any = output_layer.weight if output_weight is None else output_weight
        values = log_probs_of_hidden(
            hidden, context.targets, partial(F.linear, weight=weight), self.shard, temperature=self.temperature
        )
        log_probs, entropy = (gather_responses(each, context) for each in values)
        return log_probs, entropy


@dataclass(frozen=True, slots=True)
class Logits:
    """Of every token, [T, this rank's vocabulary], float32."""

    def __call__(
        self, *, hidden_states: Tensor, output_layer: nn.Module, output_weight: Tensor | None, config: Any, **_: Any
    ) -> Tensor:
        hidden: Any = copy_to_tensor_model_parallel_region(_all_rows(hidden_states, config))
        weight: Any = output_layer.weight if output_weight is None else output_weight
        return F.linear(hidden, weight).float()


def predicting_rows(hidden_states: Tensor, batch: MicroBatch, config: Any) -> Tensor:
    """The hidden states that predict this rank's response tokens, [r, H], from those of all its tokens.

    Their gradient must be the whole one on every tensor-parallel rank."""
    return _all_rows(hidden_states, config).index_select(0, batch.rows)


def _all_rows(hidden_states: Tensor, config: Any) -> Tensor:
    if config.sequence_parallel:
        hidden_states = gather_from_sequence_parallel_region(  # pyright: ignore[reportAssignmentType]
            hidden_states, tensor_parallel_output_grad=False
        )
    return hidden_states[:, 0]


def gather_responses(values: Tensor, batch: MicroBatch) -> Tensor:
    """[r] values of this rank's rows → [R], those of all context-parallel ranks.

    Each rank gets the gradient of its own values from its own loss alone. As all ranks compute the same loss, the sum
    of their parameters' gradients is then the loss's.
    """
    if batch.group is None or batch.places is None:
        return values
    return _Gather.apply(values, batch.places, len(batch.loss_mask), batch.group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, total: int, group: dist.ProcessGroup) -> Tensor:
        ctx.save_for_backward(places)
        whole = values.new_zeros(total).index_copy(0, places, values)
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        [places] = ctx.saved_tensors
        return gradients[0].index_select(0, places), None, None, None
