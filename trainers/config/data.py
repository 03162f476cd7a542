"""Where prompts come from."""

from engines.config import Positive, Section


class DataConfig(Section):
    prompt_data: str
    """A .jsonl file, one object a line."""
    input_key: str = "input"
    label_key: str | None = None
    metadata_key: str = "metadata"
    apply_chat_template: bool = False
    shuffle: bool = False
    seed: int = 42
    max_prompt_len: Positive | None = None
    """Prompts with more tokens are left out, and counted."""
