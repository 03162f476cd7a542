"""Multi-head latent attention over packed sequences (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""

from typing import Any, cast

import torch
from megatron.core.models.common.embeddings import apply_rotary_pos_emb
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.multi_latent_attention import MLASelfAttention
from torch import Tensor

from trainers.errors import ConfigInvalid
from trainers.megatron.attention import PackedSequences

# Tables of rotary angles are made for lengths in steps of this, so that few are made.
TABLE_STEP = 1024


class PackedLatentAttention(MLASelfAttention):
    """Megatron's, with positions that begin anew in each sequence.

    Under tensor parallelism the narrow states are computed in parts and gathered. The rotated part of the keys is the
    same for all heads, so that its gradient is the sum over the ranks, each of which has some of the heads.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.recompute_up_proj:
            raise ConfigInvalid("trainer.megatron.recompute_modules: mla_up_proj is not supported; leave it out")

    def _resolve_qk_norm_config(self, submodules: Any) -> dict[str, Any]:
        """As the layer spec says: Megatron's own resolution knows direct queries with a fused norm only."""
        names = ("linear_q_proj", "linear_q_up_proj", "linear_kv_up_proj", "q_layernorm", "kv_layernorm")
        return {name: getattr(submodules, name) for name in names}

    def get_query_key_value_tensors(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        position_ids: Tensor | None = None,
        packed_seq_params: PackedSequences | None = None,
        inference_context: Any = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """[T, 1, heads, dimensions] each: query, key and value; and the narrow states they come from."""
        assert packed_seq_params is not None
        config, heads = self.config, self.num_attention_heads_per_partition
        narrow = hidden_states
        if config.q_lora_rank is not None:
            narrow = cast(Any, self.q_layernorm)(self._scatter(self._whole(self.linear_q_down_proj(hidden_states)[0])))
            query = self.linear_q_up_proj(narrow)[0]
        else:
            query = self.linear_q_proj(hidden_states)[0]
        state: Tensor = self._whole(self.linear_kv_down_proj(hidden_states)[0])
        state, shared_key = state.split([config.kv_lora_rank, config.qk_pos_emb_head_dim], dim=-1)
        state = cast(Any, self.kv_layernorm)(self._scatter(state))
        both: Tensor = self.linear_kv_up_proj(state)[0].unflatten(-1, (heads, -1))
        plain_key, value = both.split([config.qk_head_dim, config.v_head_dim], dim=-1)
        query = query.unflatten(-1, (heads, -1))
        plain_query, turned_query = query.split([config.qk_head_dim, config.qk_pos_emb_head_dim], dim=-1)
        shared_key = self._turn(copy_to_tensor_model_parallel_region(shared_key).unsqueeze(2), packed_seq_params)
        turned_query = self._turn(turned_query, packed_seq_params)
        query = torch.cat([plain_query, turned_query], dim=-1)
        key = torch.cat([plain_key, shared_key.expand(-1, -1, heads, -1)], dim=-1)
        return query, key, value.contiguous(), narrow, state

    def _turn(self, tensor: Tensor, packed: PackedSequences) -> Tensor:
        """Rotate [T, 1, heads, rotary dimensions], neighbouring dimensions together, by each token's position."""
        assert packed.positions is not None
        length = -(-packed.max_length // TABLE_STEP) * TABLE_STEP
        table: Any = self.rotary_pos_emb(length, packed_seq=True)  # the whole of it on every context-parallel rank
        angles, scale = (table, 1.0) if self.config.rope_type == "rope" else table
        return apply_rotary_pos_emb(
            tensor, angles[packed.positions], self.config, mscale=scale, mla_rotary_interleaved=True
        )

    def _whole(self, tensor: Tensor) -> Tensor:
        gathered: Any = gather_from_tensor_model_parallel_region(tensor)
        return gathered

    def _scatter(self, tensor: Tensor) -> Tensor:
        scattered: Any = scatter_to_sequence_parallel_region(tensor) if self.config.sequence_parallel else tensor
        return scattered
