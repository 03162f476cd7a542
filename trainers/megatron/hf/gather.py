"""The policy's weights under their Hugging Face names, whole, a few at a time."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.hf.layout import Entry, Split, layout, unshard
from trainers.megatron.hf.ranks import Copy


def iter_hf(
    model: HFModel, parameters: Mapping[str, Tensor], copy: Copy, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """On rank 0: (name, whole tensor) in a fixed order, on the parameters' device and in their ``dtype``. Nothing on
    the others, which must iterate to the end all the same: they send what they hold.

    ``parameters``: this rank's, by the whole model's names. No more than one parameter, or one expert of each
    expert-parallel rank, is held whole at a time. A tensor may share memory with a parameter: copy what is kept.
    """
    stage_of = _stages(model, parameters, copy)
    for entries in _together(model, copy):
        owner = stage_of.get(_place(entries[0]), copy.pipeline.rank())
        if copy.pipeline.rank() == owner:
            if copy.takes_part(entries[0]) and (mine := _mine(entries, parameters)) is not None:
                for entry, shards in _gathered(entries, mine, copy):
                    yield from _delivered(entry, shards, model, copy)
        elif copy.pipeline.rank() == 0 and copy.is_leader:
            for entry in entries:
                yield from _received(entry, parameters, copy, owner, dtype)


def _stages(model: HFModel, parameters: Mapping[str, Tensor], copy: Copy) -> dict[str, int]:
    """Which pipeline stage has each layer, and each parameter outside of layers. Known to leaders; another rank takes
    part in what it has."""
    mine = {_place(entry) for entry in layout(model) if entry.megatron in parameters}
    if not copy.is_leader or copy.pipeline.size() == 1:
        return dict.fromkeys(mine, copy.pipeline.rank())
    told: list[set[str]] = [set()] * copy.pipeline.size()
    dist.all_gather_object(told, mine, group=copy.pipeline)
    return {place: stage for stage, places in reversed(list(enumerate(told))) for place in places}


def _place(entry: Entry) -> str:
    head, layers, rest = entry.megatron.partition("decoder.layers.")
    return f"{layers}{rest.partition('.')[0]}" if layers else head


def _together(model: HFModel, copy: Copy) -> Iterator[tuple[Entry, ...]]:
    """Parameters that one exchange gathers: one, or those of the experts that have the same number on their ranks."""
    per_rank = model.experts.count // copy.expert_size if model.experts is not None else 1
    for is_expert, found in groupby(layout(model), lambda entry: entry.expert is not None):
        entries = list(found)
        if not is_expert:
            yield from ((entry,) for entry in entries)
            continue
        kinds: dict[tuple[int, str], list[Entry]] = {}
        for entry in entries:
            assert entry.expert is not None
            kinds.setdefault((entry.expert % per_rank, entry.megatron.rpartition(".linear_")[2]), []).append(entry)
        yield from (tuple(kind) for kind in kinds.values())


def _mine(entries: Sequence[Entry], parameters: Mapping[str, Tensor]) -> Tensor | None:
    """None where another stage has it, which a rank that is no leader learns here."""
    return next((parameters[entry.megatron].detach() for entry in entries if entry.megatron in parameters), None)


def _gathered(entries: Sequence[Entry], mine: Tensor, copy: Copy) -> Iterator[tuple[Entry, list[Tensor]]]:
    """Each with the shards of all ranks that split it, on the stage's leader."""
    if entries[0].expert is not None:
        shards = _gather(mine, copy.experts)
        size = copy.expert_tp_size
        if shards is not None:
            for number, entry in enumerate(entries):
                yield entry, shards[number * size : (number + 1) * size]
    elif entries[0].split is Split.REPLICATED:
        if copy.is_leader:
            yield entries[0], [mine]
    elif (shards := _gather(mine, copy.tensor)) is not None:
        yield entries[0], shards


def _gather(tensor: Tensor, group: dist.ProcessGroup) -> list[Tensor] | None:
    if group.size() == 1:
        return [tensor]
    mine = _bytes(tensor)
    shards = [torch.empty_like(mine) for _ in range(group.size())] if group.rank() == 0 else None
    dist.gather(mine, shards, group=group, group_dst=0)
    return None if shards is None else [shard.view(tensor.dtype).view(tensor.shape) for shard in shards]


def _delivered(entry: Entry, shards: list[Tensor], model: HFModel, copy: Copy) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in zip(entry.hf, unshard(entry, shards, model), strict=True):
        if copy.pipeline.rank() == 0:
            yield name, tensor.contiguous()
        else:
            dist.send(_bytes(tensor), group=copy.pipeline, group_dst=0)


def _received(
    entry: Entry, parameters: Mapping[str, Tensor], copy: Copy, stage: int, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    device = next(iter(parameters.values())).device
    for part in entry.parts:
        tensor = torch.empty(part.shape, dtype=torch.float32 if entry.float32 else dtype, device=device)
        dist.recv(_bytes(tensor), group=copy.pipeline, group_src=stage)
        yield part.name, tensor


def _bytes(tensor: Tensor) -> Tensor:
    """Whatever its dtype, any backend can send it."""
    return tensor.contiguous().view(-1).view(torch.uint8)
