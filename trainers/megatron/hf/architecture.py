"""What a model is built of, in the terms that training needs: what ``config.json`` says, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from trainers.megatron.hf.family import Family


@dataclass(frozen=True, slots=True)
class Llama3Rope:
    """Llama 3.1's stretched rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class YarnRope:
    """YaRN's stretched rotary frequencies (Peng et al. 2023, arXiv:2309.00071), as DeepSeek-V3 has them."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values from one narrow state."""

    query_rank: int | None
    """None: queries are projected directly."""
    kv_rank: int
    plain_head_dim: int
    """Of queries and keys, without the rotated part."""
    rotary_head_dim: int
    value_head_dim: int

    @property
    def query_head_dim(self) -> int:
        return self.plain_head_dim + self.rotary_head_dim


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in place of some layers' MLP."""

    count: int
    per_token: int
    ffn_hidden_size: int
    layers: tuple[bool, ...]
    """Of each layer, whether it has experts."""
    shared_ffn_hidden_size: int | None = None
    """Of all experts together that every token goes to; None: there are none."""
    score: Literal["softmax", "sigmoid"] = "softmax"
    """``sigmoid`` comes with a bias per expert that only decides which are chosen (DeepSeek-V3, arXiv:2412.19437)."""
    normalized: bool = True
    """The chosen experts' weights are made to sum to 1."""
    groups: int = 1
    groups_per_token: int = 1
    scale: float = 1.0
    """Of the chosen experts' weights."""


@dataclass(frozen=True, slots=True)
class HFModel:
    """A decoder: RMSNorm, rotary positions, SwiGLU; grouped queries or latent attention; dense or with experts."""

    directory: Path
    family: Family
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    """Of the layers without experts."""
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    norm_epsilon: float
    rope_theta: int
    rope_scaling: Llama3Rope | YarnRope | None
    rotary_percent: float
    """The part of each head that is rotated."""
    qkv_bias: bool
    qk_layernorm: bool
    latent: LatentAttention | None
    experts: Experts | None
    tied: bool
    """Input embedding and output layer share one weight."""
    dtype: str
    """Of the stored weights: torch's name without the prefix."""

    def has_experts(self, layer: int) -> bool:
        return self.experts is not None and self.experts.layers[layer]

    @property
    def attention_width(self) -> float:
        """Numbers of a token that attention multiplies: all heads', the mean of keys and values."""
        if self.latent is None:
            return self.num_attention_heads * self.head_dim
        return self.num_attention_heads * (self.latent.query_head_dim + self.latent.value_head_dim) / 2
