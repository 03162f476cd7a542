"""How many tokens the engines take, prompt and response together."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

_KEPT_BACK = 6
"""SGLang refuses a prompt that leaves fewer of its context free, which a response that is continued may come to."""


def context_length(hf_checkpoint: str, sglang: Mapping[str, Any]) -> int | None:
    """None: neither SGLang's options nor the model's ``config.json`` say."""
    said = (sglang.get("context_length") or _max_positions(hf_checkpoint), sglang.get("max_total_tokens"))
    known = [int(length) for length in said if length]
    return max(1, min(known) - _KEPT_BACK) if known else None


@lru_cache
def _max_positions(hf_checkpoint: str) -> int | None:
    try:
        config = json.loads((Path(hf_checkpoint) / "config.json").read_text())
    except FileNotFoundError:
        return None
    return config.get("text_config", config).get("max_position_embeddings")
