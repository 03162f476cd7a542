"""The policy: Megatron's GPTModel with packed attention."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch import Tensor, nn

from trainers.megatron.attention import PackedAttention
from trainers.megatron.hf.config import HFModel
from trainers.megatron.logprobs import VocabShard
from trainers.megatron.norm import RMSNorm


class PolicyModel(GPTModel):
    """GPTModel whose rotary embedding is looked up by position, token by token."""

    def _preprocess(self, *args: Any, **kwargs: Any) -> Any:
        decoder_input, rotary, *rest = super()._preprocess(*args, **kwargs)
        assert isinstance(rotary, Tensor)
        return decoder_input, rotary[kwargs["position_ids"][0]], *rest


def build_model(
    args: argparse.Namespace,
    hf: HFModel,
    *,
    pre_process: bool,
    post_process: bool,
    pg_collection: Any,
    vp_stage: int | None = None,
) -> PolicyModel:
    """One chunk of the model, with random weights: this rank's, or one of its virtual pipeline stages."""
    from megatron.training.arguments import core_transformer_config_from_args

    spec = get_gpt_layer_local_spec(qk_layernorm=hf.family.qk_layernorm, normalization=args.normalization)
    layer: Any = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    attention = layer.self_attention.submodules
    attention.core_attention = PackedAttention
    if hf.family.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    config = core_transformer_config_from_args(args)
    block: Any = TransformerBlockSubmodules([spec] * get_num_layers_to_build(config, vp_stage), layer_norm=RMSNorm)
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
        vp_stage=vp_stage,
    )
    # Positions are looked up token by token: the table must be whole on every context-parallel rank.
    rotary: Any = model.rotary_pos_emb
    rotary.cp_group = None
    if (scaling := hf.rope_scaling) is not None:
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


def named_parameters(modules: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """Of this rank's chunks, by the names that they have in the whole model, whatever they are wrapped in."""
    from megatron.core.utils import unwrap_model

    found: dict[str, nn.Parameter] = {}
    for module in modules:
        bare: Any = unwrap_model(module)
        numbers = [layer.layer_number - 1 for layer in bare.decoder.layers]
        for name, parameter in bare.named_parameters():
            found[_global_name(name, numbers)] = parameter
    return found


def _global_name(name: str, numbers: Sequence[int]) -> str:
    """A layer's number in the whole model, in place of that in its chunk."""
    head, layers, rest = name.partition("decoder.layers.")
    if not layers:
        return name
    local, _, rest = rest.partition(".")
    return f"{head}{layers}{numbers[int(local)]}.{rest}"
