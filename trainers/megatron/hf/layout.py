"""Which Hugging Face tensors make which Megatron parameter, and how each is split over ranks."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from trainers.megatron.hf.architecture import HFModel


class Split(Enum):
    """How a rank's parameter comes out of whole Hugging Face tensors."""

    REPLICATED = auto()
    VOCAB = auto()
    """Rows, after zero rows were appended up to the padded vocabulary."""
    ROWS = auto()
    COLUMNS = auto()
    QKV = auto()
    """Query, key and value, interleaved by query group, then rows."""
    GATE_UP = auto()
    """Rows of the gate, then the same rows of the up projection."""
    FUSED_GATE_UP = auto()
    """The same, of a tensor that holds one after the other."""


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the Hugging Face directory."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One parameter of the whole model."""

    megatron: str
    parts: tuple[Part, ...]
    split: Split
    expert: int | None = None
    """Of an expert: its number. It is split over the expert-tensor-parallel ranks then."""
    float32: bool = False
    """Kept so, whatever the model's dtype is."""

    @property
    def hf(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)


@dataclass(frozen=True, slots=True)
class Position:
    """Of a rank among those that split one parameter."""

    tp_rank: int = 0
    tp_size: int = 1
    expert_tp_rank: int = 0
    expert_tp_size: int = 1

    def of(self, entry: Entry) -> tuple[int, int]:
        """Rank and size of the group that splits ``entry``."""
        if entry.expert is None:
            return self.tp_rank, self.tp_size
        return self.expert_tp_rank, self.expert_tp_size


@functools.lru_cache(maxsize=4)
def layout(model: HFModel) -> tuple[Entry, ...]:
    """All parameters, first to last layer."""
    table = (model.vocab_size, model.hidden_size)
    entries = [_entry("embedding.word_embeddings.weight", "model.embed_tokens.weight", table, Split.VOCAB)]
    for index in range(model.num_layers):
        entries += _layer(model, index)
    entries.append(_entry("decoder.final_layernorm.weight", "model.norm.weight", (model.hidden_size,)))
    if not model.tied:
        entries.append(_entry("output_layer.weight", "lm_head.weight", table, Split.VOCAB))
    return tuple(entries)


def hf_shapes(model: HFModel) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that the Hugging Face directory must hold."""
    return {part.name: part.shape for entry in layout(model) for part in entry.parts}


def _entry(megatron: str, hf: str, shape: tuple[int, ...], split: Split = Split.REPLICATED) -> Entry:
    return Entry(megatron, (Part(hf, shape),), split)


def _layer(model: HFModel, index: int) -> list[Entry]:
    to, of, width = f"decoder.layers.{index}.", f"model.layers.{index}.", (model.hidden_size,)
    entries = [_entry(f"{to}input_layernorm.weight", f"{of}input_layernorm.weight", width)]
    entries += _attention(model, f"{to}self_attention.", f"{of}self_attn.")
    if model.family.sandwich_norms:
        entries += [
            _entry(f"{to}self_attention.post_layernorm.weight", f"{of}post_self_attn_layernorm.weight", width),
            _entry(f"{to}mlp.post_layernorm.weight", f"{of}post_mlp_layernorm.weight", width),
        ]
    entries.append(_entry(f"{to}pre_mlp_layernorm.weight", f"{of}post_attention_layernorm.weight", width))
    if model.has_experts(index):
        return entries + _experts(model, f"{to}mlp.", f"{of}mlp.")
    return entries + _mlp(model, f"{to}mlp.", f"{of}mlp.", model.ffn_hidden_size)


def _attention(model: HFModel, to: str, of: str) -> list[Entry]:
    if model.latent is not None:
        return _latent_attention(model, to, of)
    hidden, queries, groups = model.hidden_size, model.num_attention_heads, model.num_query_groups
    rows = {
        name: heads * model.head_dim for name, heads in (("q_proj", queries), ("k_proj", groups), ("v_proj", groups))
    }
    weights = tuple(Part(f"{of}{name}.weight", (count, hidden)) for name, count in rows.items())
    entries = [
        Entry(f"{to}linear_qkv.weight", weights, Split.QKV),
        _entry(f"{to}linear_proj.weight", f"{of}o_proj.weight", (hidden, rows["q_proj"]), Split.COLUMNS),
    ]
    if model.qkv_bias:
        biases = tuple(Part(f"{of}{name}.bias", (count,)) for name, count in rows.items())
        entries.append(Entry(f"{to}linear_qkv.bias", biases, Split.QKV))
    if model.qk_layernorm:
        entries += [_entry(f"{to}{x}_layernorm.weight", f"{of}{x}_norm.weight", (model.head_dim,)) for x in ("q", "k")]
    return entries


def _latent_attention(model: HFModel, to: str, of: str) -> list[Entry]:
    latent, hidden, heads = model.latent, model.hidden_size, model.num_attention_heads
    assert latent is not None
    queries, rank = heads * latent.query_head_dim, latent.query_rank
    if rank is None:
        entries = [_entry(f"{to}linear_q_proj.weight", f"{of}q_proj.weight", (queries, hidden), Split.ROWS)]
    else:
        entries = [
            _entry(f"{to}linear_q_down_proj.weight", f"{of}q_a_proj.weight", (rank, hidden), Split.ROWS),
            _entry(f"{to}q_layernorm.weight", f"{of}q_a_layernorm.weight", (rank,)),
            _entry(f"{to}linear_q_up_proj.weight", f"{of}q_b_proj.weight", (queries, rank), Split.ROWS),
        ]
    state = (latent.kv_rank + latent.rotary_head_dim, hidden)
    keys_and_values = (heads * (latent.plain_head_dim + latent.value_head_dim), latent.kv_rank)
    values = (hidden, heads * latent.value_head_dim)
    return [
        *entries,
        _entry(f"{to}linear_kv_down_proj.weight", f"{of}kv_a_proj_with_mqa.weight", state, Split.ROWS),
        _entry(f"{to}kv_layernorm.weight", f"{of}kv_a_layernorm.weight", (latent.kv_rank,)),
        _entry(f"{to}linear_kv_up_proj.weight", f"{of}kv_b_proj.weight", keys_and_values, Split.ROWS),
        _entry(f"{to}linear_proj.weight", f"{of}o_proj.weight", values, Split.COLUMNS),
    ]


def _mlp(model: HFModel, to: str, of: str, width: int, expert: int | None = None) -> list[Entry]:
    hidden = model.hidden_size
    if model.family.fused_gate_up:
        gate_up, split = (Part(f"{of}gate_up_proj.weight", (2 * width, hidden)),), Split.FUSED_GATE_UP
    else:
        gate_up = tuple(Part(f"{of}{name}_proj.weight", (width, hidden)) for name in ("gate", "up"))
        split = Split.GATE_UP
    down = (Part(f"{of}down_proj.weight", (hidden, width)),)
    return [
        Entry(f"{to}linear_fc1.weight", gate_up, split, expert),
        Entry(f"{to}linear_fc2.weight", down, Split.COLUMNS, expert),
    ]


def _experts(model: HFModel, to: str, of: str) -> list[Entry]:
    experts = model.experts
    assert experts is not None
    entries = [_entry(f"{to}router.weight", f"{of}gate.weight", (experts.count, model.hidden_size))]
    if experts.score == "sigmoid":
        bias = (Part(f"{of}gate.e_score_correction_bias", (experts.count,)),)
        entries.append(Entry(f"{to}router.expert_bias", bias, Split.REPLICATED, float32=True))
    for number in range(experts.count):
        entries += _mlp(
            model,
            f"{to}experts.local_experts.{number}.",
            f"{of}experts.{number}.",
            experts.ffn_hidden_size,
            expert=number,
        )
    if experts.shared_ffn_hidden_size is not None:
        entries += _mlp(model, f"{to}shared_experts.", f"{of}shared_experts.", experts.shared_ffn_hidden_size)
    return entries


def shard(
    entry: Entry, tensors: Sequence[Tensor], model: HFModel, *, rank: int = 0, size: int = 1, padded_vocab_size: int
) -> Tensor:
    """The parameter of one rank, from the entry's whole Hugging Face tensors."""
    match entry.split:
        case Split.REPLICATED:
            return tensors[0]
        case Split.VOCAB:
            padding = tensors[0].new_zeros(padded_vocab_size - model.vocab_size, tensors[0].shape[1])
            return torch.cat([tensors[0], padding]).chunk(size)[rank]
        case Split.ROWS:
            return tensors[0].chunk(size)[rank]
        case Split.COLUMNS:
            return tensors[0].chunk(size, dim=1)[rank]
        case Split.QKV:
            groups = [tensor.unflatten(0, (model.num_query_groups, -1)) for tensor in tensors]
            return torch.cat(groups, dim=1).flatten(0, 1).chunk(size)[rank]
        case Split.GATE_UP:
            return torch.cat([tensor.chunk(size)[rank] for tensor in tensors])
        case Split.FUSED_GATE_UP:
            return torch.cat([half.chunk(size)[rank] for half in tensors[0].chunk(2)])


def unshard(entry: Entry, shards: Sequence[Tensor], model: HFModel) -> list[Tensor]:
    """The inverse of :func:`shard`: the entry's Hugging Face tensors, from the parameters of all ranks in order."""
    match entry.split:
        case Split.REPLICATED:
            return [shards[0]]
        case Split.VOCAB:
            return [torch.cat(list(shards))[: model.vocab_size]]
        case Split.ROWS:
            return [torch.cat(list(shards))]
        case Split.COLUMNS:
            return [torch.cat(list(shards), dim=1)]
        case Split.QKV:
            per_group = model.num_attention_heads // model.num_query_groups
            whole = torch.cat(list(shards)).unflatten(0, (model.num_query_groups, per_group + 2, model.head_dim))
            return [part.flatten(0, 2) for part in whole.split([per_group, 1, 1], dim=1)]
        case Split.GATE_UP | Split.FUSED_GATE_UP:
            halves = [piece.chunk(2) for piece in shards]
            gate_up = [torch.cat([half[index] for half in halves]) for index in (0, 1)]
            return gate_up if entry.split is Split.GATE_UP else [torch.cat(gate_up)]
