"""How the architectures differ from the plain Llama block."""

from collections.abc import Callable
from dataclasses import dataclass

from trainers.megatron.hf.architecture import Experts, LatentAttention
from trainers.megatron.hf.config_file import ConfigFile


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of transformers: what it always has, and which of its config's fields say the rest."""

    architecture: str
    """As ``architectures`` in ``config.json`` names it."""
    qkv_bias: bool = False
    qkv_bias_field: str | None = None
    """The field that decides; one that is not read is refused when set."""
    qk_layernorm: bool = False
    qk_layernorm_field: str | None = None
    rotary_percent: float = 1.0
    """Where the config does not say."""
    rotary_interleaved: bool = False
    """Neighbouring dimensions are rotated together, rather than one of each half."""
    sandwich_norms: bool = False
    """Attention and MLP have a norm after them as well."""
    fused_gate_up: bool = False
    """Gate and up projection are stored as one tensor."""
    experts: Callable[[ConfigFile, int], Experts | None] | None = None
    """From the config and its number of layers."""
    latent: Callable[[ConfigFile], LatentAttention] | None = None
    latent_norm_epsilon: float | None = None
    """Of latent attention's inner norms, whatever the config says of the others."""

    def has_qkv_bias(self, config: ConfigFile) -> bool:
        return config.flag(self.qkv_bias_field, self.qkv_bias) if self.qkv_bias_field else self.qkv_bias

    def has_qk_layernorm(self, config: ConfigFile) -> bool:
        return config.flag(self.qk_layernorm_field, self.qk_layernorm) if self.qk_layernorm_field else self.qk_layernorm
