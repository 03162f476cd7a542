"""The architectures that are trained, by the names that transformers gives them."""

from trainers.megatron.hf.families.deepseek_v3 import DEEPSEEK_V3
from trainers.megatron.hf.families.glm4 import GLM4
from trainers.megatron.hf.families.glm4_moe import GLM4_MOE
from trainers.megatron.hf.families.llama import LLAMA
from trainers.megatron.hf.families.qwen2 import QWEN2
from trainers.megatron.hf.families.qwen3 import QWEN3
from trainers.megatron.hf.families.qwen3_moe import QWEN3_MOE
from trainers.megatron.hf.family import Family

FAMILIES: dict[str, Family] = {
    family.architecture: family for family in (LLAMA, QWEN2, QWEN3, QWEN3_MOE, GLM4, GLM4_MOE, DEEPSEEK_V3)
}
