"""The policy: Megatron's GPTModel with packed attention."""

import argparse
from collections.abc import Sequence
from typing import Any, cast

import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor, nn

from trainers.megatron.hf.architecture import HFModel, Llama3Rope, YarnRope
from trainers.megatron.layers import block_of
from trainers.megatron.logprobs import VocabShard


class PolicyModel(GPTModel):
    """GPTModel whose rotary embedding is looked up by position, token by token."""

    def _preprocess(self, *args: Any, **kwargs: Any) -> Any:
        decoder_input, rotary, *rest = super()._preprocess(*args, **kwargs)
        if rotary is not None:  # latent attention looks up by itself
            assert isinstance(rotary, Tensor)
            rotary = rotary[kwargs["position_ids"][0]]
        return decoder_input, rotary, *rest


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

    config: Any = core_transformer_config_from_args(args)
    if isinstance(hf.rope_scaling, YarnRope):  # the parser has no options for these
        config.original_max_position_embeddings = hf.rope_scaling.original_max_position_embeddings
        config.beta_fast, config.beta_slow = hf.rope_scaling.beta_fast, hf.rope_scaling.beta_slow
    model = PolicyModel(
        config=config,
        transformer_layer_spec=cast(Any, block_of(hf, config, vp_stage)),
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
    if hf.latent is None:
        _prepare_rotary(model.rotary_pos_emb, hf.rope_scaling)
    return model


def _prepare_rotary(rotary: Any, scaling: Llama3Rope | YarnRope | None) -> None:
    # Positions are looked up token by token: the table must be whole on every context-parallel rank.
    rotary.cp_group = None
    if isinstance(scaling, Llama3Rope):
        rotary.inv_freq = rotary._apply_scaling(
            rotary.inv_freq,
            factor=scaling.factor,
            low_freq_factor=scaling.low_freq_factor,
            high_freq_factor=scaling.high_freq_factor,
            original_max_position_embeddings=scaling.original_max_position_embeddings,
        )


def vocab_shard(padded_vocab_size: int, vocab_size: int, group: dist.ProcessGroup) -> VocabShard:
    """This rank's columns of the logits, which the tensor-parallel ``group`` shares."""
    width = padded_vocab_size // group.size()
    return VocabShard(start=group.rank() * width, width=width, vocab_size=vocab_size, group=group)


def named_parameters(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Of this rank's chunks, by the names that they have in the whole model, whatever they are wrapped in; with what
    else belongs to a model's weights, the biases by which experts are chosen."""
    from megatron.core.utils import unwrap_model

    found: dict[str, Tensor] = {}
    for module in modules:
        bare: Any = unwrap_model(module)
        numbers = [layer.layer_number - 1 for layer in bare.decoder.layers]
        expert = _first_expert(bare.config)
        for name, parameter in bare.named_parameters():
            found[_global_name(name, numbers, expert)] = parameter
        for name, router in bare.named_modules():
            if isinstance(router, TopKRouter) and router.expert_bias is not None:
                router._maintain_float32_expert_bias()  # it was converted with everything else
                found[_global_name(f"{name}.expert_bias", numbers, expert)] = router.expert_bias
    return found


def _first_expert(config: Any) -> int:
    """On this rank."""
    if config.num_moe_experts is None:
        return 0
    per_rank = config.num_moe_experts // parallel_state.get_expert_model_parallel_world_size()
    return parallel_state.get_expert_model_parallel_rank() * per_rank


def _global_name(name: str, numbers: Sequence[int], first_expert: int) -> str:
    """A layer's and an expert's number in the whole model, in place of those in its chunk and on its rank."""
    head, layers, rest = name.partition("decoder.layers.")
    if not layers:
        return name
    local, _, rest = rest.partition(".")
    inside, experts, expert = rest.partition(".local_experts.")
    if experts:
        number, _, rest = expert.partition(".")
        rest = f"{inside}{experts}{first_expert + int(number)}.{rest}"
    return f"{head}{layers}{numbers[int(local)]}.{rest}"
