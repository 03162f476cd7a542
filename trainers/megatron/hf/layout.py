"""Which Hugging Face tensors make which Megatron parameter, and how each is split over tensor-parallel ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from trainers.megatron.hf.config import HFModel


class Split(Enum):
    """How a rank's parameter comes out of whole Hugging Face tensors."""

    REPLICATED = auto()
    VOCAB = auto()
    """Rows, after zero rows were appended up to the padded vocabulary."""
    COLUMNS = auto()
    QKV = auto()
    """Query, key and value, interleaved by query group, then rows."""
    GATE_UP = auto()
    """Rows of the gate, then the same rows of the up projection."""


@dataclass(frozen=True, slots=True)
class Entry:
    megatron: str
    hf: tuple[str, ...]
    split: Split


def layout(model: HFModel) -> list[Entry]:
    """All parameters, first to last layer."""
    entries = [Entry("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), Split.VOCAB)]
    for index in range(model.num_layers):
        entries += _layer(model, f"decoder.layers.{index}.", f"model.layers.{index}.")
    entries.append(Entry("decoder.final_layernorm.weight", ("model.norm.weight",), Split.REPLICATED))
    if not model.tied:
        entries.append(Entry("output_layer.weight", ("lm_head.weight",), Split.VOCAB))
    return entries


def _layer(model: HFModel, to: str, of: str) -> list[Entry]:
    attention, projections = f"{of}self_attn.", ("q_proj", "k_proj", "v_proj")
    entries = [
        Entry(f"{to}input_layernorm.weight", (f"{of}input_layernorm.weight",), Split.REPLICATED),
        Entry(f"{to}self_attention.linear_qkv.weight", tuple(f"{attention}{p}.weight" for p in projections), Split.QKV),
        Entry(f"{to}self_attention.linear_proj.weight", (f"{attention}o_proj.weight",), Split.COLUMNS),
        Entry(f"{to}pre_mlp_layernorm.weight", (f"{of}post_attention_layernorm.weight",), Split.REPLICATED),
        Entry(f"{to}mlp.linear_fc1.weight", (f"{of}mlp.gate_proj.weight", f"{of}mlp.up_proj.weight"), Split.GATE_UP),
        Entry(f"{to}mlp.linear_fc2.weight", (f"{of}mlp.down_proj.weight",), Split.COLUMNS),
    ]
    if model.family.qkv_bias:
        entries.append(
            Entry(f"{to}self_attention.linear_qkv.bias", tuple(f"{attention}{p}.bias" for p in projections), Split.QKV)
        )
    if model.family.qk_layernorm:
        entries += [
            Entry(f"{to}self_attention.{x}_layernorm.weight", (f"{attention}{x}_norm.weight",), Split.REPLICATED)
            for x in "qk"
        ]
    return entries


def hf_shapes(model: HFModel) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that the Hugging Face directory must hold."""
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    queries, groups = model.num_attention_heads * model.head_dim, model.num_query_groups * model.head_dim
    ends: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (model.vocab_size, hidden),
        "lm_head.weight": (model.vocab_size, hidden),
        "q_proj.weight": (queries, hidden),
        "k_proj.weight": (groups, hidden),
        "v_proj.weight": (groups, hidden),
        "q_proj.bias": (queries,),
        "k_proj.bias": (groups,),
        "v_proj.bias": (groups,),
        "o_proj.weight": (hidden, queries),
        "gate_proj.weight": (ffn, hidden),
        "up_proj.weight": (ffn, hidden),
        "down_proj.weight": (hidden, ffn),
        "q_norm.weight": (model.head_dim,),
        "k_norm.weight": (model.head_dim,),
    }
    return {name: ends.get(".".join(name.split(".")[-2:]), (hidden,)) for entry in layout(model) for name in entry.hf}


def shard(
    entry: Entry, tensors: Sequence[Tensor], model: HFModel, *, tp_rank: int, tp_size: int, padded_vocab_size: int
) -> Tensor:
    """The parameter of one rank, from the entry's whole Hugging Face tensors."""
    match entry.split:
        case Split.REPLICATED:
            return tensors[0]
        case Split.VOCAB:
            padding = tensors[0].new_zeros(padded_vocab_size - model.vocab_size, tensors[0].shape[1])
            return torch.cat([tensors[0], padding]).chunk(tp_size)[tp_rank]
        case Split.COLUMNS:
            return tensors[0].chunk(tp_size, dim=1)[tp_rank]
        case Split.QKV:
            groups = [tensor.unflatten(0, (model.num_query_groups, -1)) for tensor in tensors]
            return torch.cat(groups, dim=1).flatten(0, 1).chunk(tp_size)[tp_rank]
        case Split.GATE_UP:
            return torch.cat([tensor.chunk(tp_size)[tp_rank] for tensor in tensors])


def unshard(entry: Entry, shards: Sequence[Tensor], model: HFModel) -> list[Tensor]:
    """The inverse of :func:`shard`: the entry's Hugging Face tensors, from the parameters of all ranks in order."""
    match entry.split:
        case Split.REPLICATED:
            return [shards[0]]
        case Split.VOCAB:
            return [torch.cat(list(shards))[: model.vocab_size]]
        case Split.COLUMNS:
            return [torch.cat(list(shards), dim=1)]
        case Split.QKV:
            per_group = model.num_attention_heads // model.num_query_groups
            whole = torch.cat(list(shards)).unflatten(0, (model.num_query_groups, per_group + 2, model.head_dim))
            return [part.flatten(0, 2) for part in whole.split([per_group, 1, 1], dim=1)]
        case Split.GATE_UP:
            halves = [piece.chunk(2) for piece in shards]
            return [torch.cat([half[index] for half in halves]) for index in (0, 1)]
