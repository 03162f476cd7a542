"""Which ranks hold one copy of the model between them, and what part of it each has."""

from dataclasses import dataclass
from typing import cast

import torch.distributed as dist
from megatron.core import parallel_state

from trainers.megatron.hf.layout import Entry, Position


def position_of_rank() -> Position:
    """Of this rank, once the world is joined."""
    return Position(
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        tp_size=parallel_state.get_tensor_model_parallel_world_size(),
        expert_tp_rank=cast(int, parallel_state.get_expert_tensor_parallel_rank()),
        expert_tp_size=cast(int, parallel_state.get_expert_tensor_parallel_world_size()),
    )


@dataclass(frozen=True, slots=True)
class Copy:
    """The ranks that hold the copy of the model to which rank 0 belongs: on every pipeline stage, those that split its
    layers with the stage's first rank, its leader. Experts may be spread over more ranks than the rest."""

    pipeline: dist.ProcessGroup
    """A leader's: all leaders."""
    tensor: dist.ProcessGroup
    experts: dist.ProcessGroup
    """Expert-tensor-parallel ranks of every expert-parallel rank in turn."""
    expert_tp_size: int
    has_tensor: bool
    """This rank is in the leader's tensor-parallel group."""
    has_experts: bool

    @classmethod
    def of_world(cls) -> "Copy":
        """Once the world is joined."""
        return cls(
            pipeline=cast(dist.ProcessGroup, parallel_state.get_pipeline_model_parallel_group()),
            tensor=cast(dist.ProcessGroup, parallel_state.get_tensor_model_parallel_group()),
            experts=cast(dist.ProcessGroup, parallel_state.get_expert_tensor_and_model_parallel_group()),
            expert_tp_size=cast(int, parallel_state.get_expert_tensor_parallel_world_size()),
            has_tensor=parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0,
            has_experts=parallel_state.get_expert_data_parallel_rank() == 0,
        )

    @property
    def expert_size(self) -> int:
        """Ranks that divide a layer's experts."""
        return self.experts.size() // self.expert_tp_size

    @property
    def is_leader(self) -> bool:
        return self.has_tensor and self.tensor.rank() == 0

    def takes_part(self, entry: Entry) -> bool:
        return self.has_tensor if entry.expert is None else self.has_experts
