"""What each layer of the model is made of."""

from functools import partial
from typing import Any

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor

from trainers.megatron.attention import PackedAttention
from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.latent import PackedLatentAttention
from trainers.megatron.norm import HeadNorm, RMSNorm
from trainers.megatron.rotation import RotatedAttention


def block_of(model: HFModel, config: Any, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The layers of this rank's pipeline stage, or of one of its virtual stages."""
    first = get_transformer_layer_offset(config, vp_stage=vp_stage)
    numbers = range(first, first + get_num_layers_to_build(config, vp_stage))
    specs = {has_experts: _layer(model, has_experts) for has_experts in {model.has_experts(n) for n in numbers}}
    return TransformerBlockSubmodules([specs[model.has_experts(n)] for n in numbers], layer_norm=RMSNorm)


def _layer(model: HFModel, has_experts: bool) -> ModuleSpec:
    spec = get_gpt_layer_local_spec(
        num_experts=model.experts.count if model.experts is not None and has_experts else None,
        qk_layernorm=model.qk_layernorm,
        multi_latent_attention=model.latent is not None,
        normalization="RMSNorm",
    )
    layer: Any = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    attention = layer.self_attention.submodules
    attention.core_attention = PackedAttention
    if model.latent is not None:
        layer.self_attention.module = PackedLatentAttention
        epsilon = model.family.latent_norm_epsilon
        attention.q_layernorm = attention.kv_layernorm = RMSNorm if epsilon is None else partial(_norm, epsilon)
    else:
        layer.self_attention.module = RotatedAttention
        if model.qk_layernorm:
            attention.q_layernorm = attention.k_layernorm = HeadNorm
    if model.family.sandwich_norms:
        layer.self_attention.module = SandwichedAttention
        layer.mlp = partial(SandwichedMLP.as_mlp_submodule, **layer.mlp.keywords)
    return spec


def _norm(epsilon: float, config: Any, hidden_size: int, **_: Any) -> RMSNorm:
    return RMSNorm(config, hidden_size, epsilon)


class SandwichedAttention(RotatedAttention):
    """With a norm after it as well, before the residual is added (as in GLM-4)."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        self.post_layernorm = RMSNorm(config, config.hidden_size, config.layernorm_epsilon)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        output, bias = super().forward(*args, **kwargs)
        return self.post_layernorm(output), bias


class SandwichedMLP(MLP):
    """With a norm after it as well, before the residual is added (as in GLM-4)."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        self.post_layernorm = RMSNorm(config, config.hidden_size, config.layernorm_epsilon)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        output, bias = super().forward(*args, **kwargs)
        return self.post_layernorm(output), bias
