"""A model without weights, that knows where each of its parameters is in a checkpoint."""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.training.checkpointing import _build_sharded_state_dict_metadata
from torch import Tensor

from trainers.megatron import world
from trainers.megatron.args import parse_options
from trainers.megatron.device import megatron_device
from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.hf.layout import layout
from trainers.megatron.hf.options import architecture_defaults, architecture_options
from trainers.megatron.model import build_model


@dataclass(frozen=True, slots=True)
class Place:
    """Part of a tensor in a checkpoint."""

    key: str
    size: tuple[int, ...]
    """Of the whole tensor, layers and experts that share one included."""
    start: tuple[int, ...]
    shape: tuple[int, ...]
    """Of the part, with axes of 1 for the layer and the expert."""
    is_padded: bool
    """The stored tensor may be shorter or longer: the vocabulary."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    args: argparse.Namespace
    pieces: Mapping[str, Any]
    """Of each parameter, by its name, what Megatron would save."""
    objects: Mapping[str, ShardedObject]
    """What else a checkpoint of the model holds."""
    metadata: Mapping[str, Any]
    """How Megatron sorts the content; a load asks for it."""

    @property
    def padded_vocab_size(self) -> int:
        return self.args.padded_vocab_size

    def split(self, name: str, tensor: Tensor) -> list[tuple[Place, Tensor]]:
        """A parameter's tensor into what is stored of it, views of its memory."""
        return [(_place(each), _stored_view(each)) for each in _built(self.pieces[name], tensor)]


@contextmanager
def skeleton(model: HFModel) -> Iterator[Skeleton]:
    """Joins a world of one process for as long as it is used."""
    args = parse_options(_options(model), rank=0, world_size=1, device="cpu")
    with megatron_device("cpu"):
        world.join(args, init_method=None, timeout_s=60)
        try:
            yield _build(model, args)
        finally:
            world.leave()


def _options(model: HFModel) -> dict[str, Any]:
    return (
        architecture_options(model)
        | architecture_defaults(model)
        | {
            "transformer_impl": "local",
            "perform_initialization": False,
            "use_cpu_initialization": True,
            "gradient_accumulation_fusion": False,
            "masked_softmax_fusion": False,
            "apply_rope_fusion": False,
            "bias_swiglu_fusion": False,
            "bias_dropout_fusion": False,
            "no_persist_layer_norm": True,
            "bf16": model.dtype == "bfloat16",
            "micro_batch_size": 1,
            "global_batch_size": 1,
            "train_iters": 1,
            "lr": 1e-6,
            "seq_length": model.max_position_embeddings,
            "max_position_embeddings": model.max_position_embeddings,
            "tokenizer_type": "NullTokenizer",
            "distributed_backend": "gloo",
            "ckpt_format": "torch_dist",
        }
    )


def _build(model: HFModel, args: argparse.Namespace) -> Skeleton:
    with torch.device("meta"):
        bare = build_model(
            args,
            model,
            pre_process=True,
            post_process=True,
            pg_collection=ProcessGroupCollection.use_mpu_process_groups(),
        )
    group: Any = parallel_state.get_data_parallel_group(with_context_parallel=True)
    metadata = _build_sharded_state_dict_metadata(args, dp_cp_group=group)
    state: Any = bare.sharded_state_dict(metadata=metadata)
    pieces = {name: piece for name, piece in state.items() if not isinstance(piece, ShardedObject)}
    wanted = {entry.megatron for entry in layout(model)}
    if uncovered := set(pieces) ^ wanted:
        raise RuntimeError(f"the layout and the model differ in {sorted(uncovered)[:10]}")
    objects = {name: piece for name, piece in state.items() if isinstance(piece, ShardedObject)}
    clean = {name: value for name, value in metadata.items() if name != "dp_cp_group"}
    return Skeleton(args, pieces, objects, clean)


def _built(piece: Any, tensor: Tensor) -> Iterator[ShardedTensor]:
    """What Megatron stores of a parameter; for gated MLPs the halves apart, whatever the ranks that wrote it."""
    if isinstance(piece, ShardedTensorFactory):
        yield from _leaves(piece.build_fn(piece.key, tensor, piece.replica_id, piece.flattened_range))
        return
    assert isinstance(piece, ShardedTensor)
    yield ShardedTensor(**{**vars(piece), "data": tensor, "dtype": tensor.dtype})


def _leaves(tree: Any) -> Iterator[ShardedTensor]:
    if isinstance(tree, ShardedTensor):
        yield tree
        return
    for branch in tree.values() if isinstance(tree, dict) else tree:
        yield from _leaves(branch)


def _place(piece: ShardedTensor) -> Place:
    shape = (1,) * piece.prepend_axis_num + tuple(piece.local_shape)
    return Place(piece.key, tuple(piece.global_shape), tuple(piece.global_offset), shape, piece.allow_shape_mismatch)


def _stored_view(piece: ShardedTensor) -> Tensor:
    assert isinstance(piece.data, Tensor)
    return piece.data.view((1,) * piece.prepend_axis_num + tuple(piece.local_shape))
