"""What tensors a model consists of, read from the headers of its Hugging Face checkpoint."""

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engines.protocols import TensorMeta

_LAYER = re.compile(r"model\.layers\.([0-9]+)\.")


@dataclass(frozen=True, slots=True)
class TensorIndex:
    """Names and shapes that an update must have. An engine does not tell: SGLang's loaders take some wrong shapes
    without a word (three rows of q_proj, say), and keep the old values of a tensor that never came."""

    shapes: Mapping[str, tuple[int, ...]]
    optional: frozenset[str]
    """May be left out, or sent although the checkpoint has no such entry: a tied output layer, constants, and
    the layers behind the last, which predict further tokens and are not trained."""

    def complaint(self, meta: TensorMeta) -> str | None:
        """What is wrong with sending ``meta``, None when nothing is."""
        shape = self.shapes.get(meta.name)
        if shape is None:
            return None if meta.name in self.optional else f"the model has no tensor {meta.name}"
        if shape != meta.shape:
            return f"{meta.name} has shape {list(meta.shape)}, the model's is {list(shape)}"
        return None

    def missing(self, sent: Iterable[str]) -> list[str]:
        """Names that an update of ``sent`` would leave at their old values."""
        return sorted(self.shapes.keys() - self.optional - set(sent))


@lru_cache(maxsize=4)
def tensor_index(model_path: str) -> TensorIndex | None:
    """The index of a Hugging Face directory. None when it cannot be known from there: no safetensors files, or
    weights that are stored quantized and so under other names and shapes than a trainer's."""
    directory = Path(model_path)
    files = sorted(directory.glob("*.safetensors"))
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    if not files or config.get("quantization_config"):
        return None
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= _header(file)
    optional = {name for name in shapes if name.endswith("rotary_emb.inv_freq")}
    if config.get("tie_word_embeddings"):
        optional.add("lm_head.weight")
    if (num_layers := config.get("num_hidden_layers")) is not None:
        optional |= {name for name in shapes if (found := _LAYER.match(name)) and int(found[1]) >= num_layers}
    return TensorIndex(shapes, frozenset(optional))


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """safetensors begins with the header's length, 8 bytes little-endian, and the header in JSON."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(length))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
