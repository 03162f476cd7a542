"""Which model is trained."""

from engines.config import Section


class ModelConfig(Section):
    hf_checkpoint: str
    """A Hugging Face directory: architecture, tokenizer and, unless a checkpoint is loaded, the first weights."""
