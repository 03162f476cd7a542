"""The policy's weights under their Hugging Face names, whole, one after the other."""

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.megatron.hf.config import HFModel
from trainers.megatron.hf.layout import Split, layout, unshard


def iter_hf(
    model: HFModel, parameters: Mapping[str, torch.nn.Parameter], group: dist.ProcessGroup
) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor) in a fixed order, on the parameters' device and in their dtype.

    All ranks of the tensor-parallel ``group`` iterate to the end, each reading the same; no more than one parameter is
    held whole at a time. A tensor may share memory with a parameter: copy what is kept.
    """
    for entry in layout(model):
        parameter = parameters[entry.megatron].detach()
        if entry.split is Split.REPLICATED or group.size() == 1:
            shards = [parameter]
        else:
            shards = [torch.empty_like(parameter) for _ in range(group.size())]
            dist.all_gather(shards, parameter, group=group)
        for name, tensor in zip(entry.hf, unshard(entry, shards, model), strict=True):
            yield name, tensor.contiguous()
