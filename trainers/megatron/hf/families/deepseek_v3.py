"""DeepSeek-V3, and Moonlight, which has its shape."""

from trainers.megatron.hf.architecture import LatentAttention
from trainers.megatron.hf.config_file import ConfigFile
from trainers.megatron.hf.families.routed_by_sigmoid import routed_by_sigmoid
from trainers.megatron.hf.family import Family


def _latent(config: ConfigFile) -> LatentAttention:
    if not config.flag("rope_interleave", True):
        raise config.refuse("rope_interleave")
    return LatentAttention(
        query_rank=None if config.raw.get("q_lora_rank") is None else config.integer("q_lora_rank"),
        kv_rank=config.integer("kv_lora_rank"),
        plain_head_dim=config.integer("qk_nope_head_dim"),
        rotary_head_dim=config.integer("qk_rope_head_dim"),
        value_head_dim=config.integer("v_head_dim"),
    )


DEEPSEEK_V3 = Family("DeepseekV3ForCausalLM", experts=routed_by_sigmoid, latent=_latent, latent_norm_epsilon=1e-6)
