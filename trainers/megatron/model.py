"""The policy: Megatron's GPTModel with packed attention, from tokens to log-probabilities."""

import argparse
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch import Tensor, nn

from trainers.megatron.attention import PackedAttention
from trainers.megatron.hf.config import HFModel
from trainers.megatron.logprobs import VocabShard, log_probs_of_hidden
from trainers.megatron.norm import RMSNorm
from trainers.megatron.packing import MicroBatch


class PolicyModel(GPTModel):
    """GPTModel whose rotary embedding is looked up by position, token by token."""

    def _preprocess(self, *args: Any, **kwargs: Any) -> Any:
        decoder_input, rotary, *rest = super()._preprocess(*args, **kwargs)
        assert isinstance(rotary, Tensor)
        return decoder_input, rotary[kwargs["position_ids"][0]], *rest


def build_model(
    args: argparse.Namespace, hf: HFModel, *, pre_process: bool, post_process: bool, pg_collection: Any
) -> PolicyModel:
    """One rank's part of the model, with random weights."""
    from megatron.training.arguments import core_transformer_config_from_args

    spec = get_gpt_layer_local_spec(qk_layernorm=hf.family.qk_layernorm, normalization=args.normalization)
    layer: Any = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    attention = layer.self_attention.submodules
    attention.core_attention = PackedAttention
    if hf.family.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    config = core_transformer_config_from_args(args)
    block: Any = TransformerBlockSubmodules([spec] * get_num_layers_to_build(config), layer_norm=RMSNorm)
    model = PolicyModel(
        config=config,
        transformer_layer_spec=block,
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        pre_process=pre_process,
        post_process=post_process,
        parallel_output=True,
        share_embeddings_and_output_weights=hf.tied,
        position_embedding_type="rope",
        rotary_percent=args.rotary_percent,
        rotary_base=args.rotary_base,
        pg_collection=pg_collection,
    )
    if (scaling := hf.rope_scaling) is not None:
        rotary: Any = model.rotary_pos_emb
        rotary.inv_freq = rotary._apply_scaling(
            rotary.inv_freq,
            factor=scaling.factor,
            low_freq_factor=scaling.low_freq_factor,
            high_freq_factor=scaling.high_freq_factor,
            original_max_position_embeddings=scaling.original_max_position_embeddings,
        )
    return model


def vocab_shard(padded_vocab_size: int, vocab_size: int, group: dist.ProcessGroup) -> VocabShard:
    """This rank's columns of the logits, which the tensor-parallel ``group`` shares."""
    width = padded_vocab_size // group.size()
    return VocabShard(start=group.rank() * width, width=width, vocab_size=vocab_size, group=group)


@dataclass(frozen=True, slots=True)
class Policy:
    """The model as the loss sees it."""

    module: nn.Module
    """Wrapped for data parallelism or not."""
    shard: VocabShard
    temperature: float
    """Of the distribution that was sampled."""

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probability of every response token and the entropy of its distribution, [R] each, float32."""
        return self.module(
            batch.tokens,
            batch.positions,
            None,
            packed_seq_params=batch.sequences,
            output_processor=self._output,
            output_processor_context=batch,
        )

    def _output(
        self,
        *,
        hidden_states: Tensor,
        output_layer: nn.Module,
        output_weight: Tensor | None,
        context: MicroBatch,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Only the rows that predict response tokens go through the output layer."""

        def project(rows: Tensor) -> Tensor:
            logits, _ = output_layer(rows[:, None], weight=output_weight)
            return logits[:, 0]

        hidden = hidden_states[:, 0].index_select(0, context.rows)
        return log_probs_of_hidden(hidden, context.targets, project, self.shard, temperature=self.temperature)


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """By the names of the bare model, whatever it is wrapped in."""
    from megatron.core.utils import unwrap_model

    bare: Any = unwrap_model(module)
    return dict(bare.named_parameters())
