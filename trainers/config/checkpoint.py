"""What is loaded and saved."""

from engines.config import Positive, Section


class CheckpointConfig(Section):
    """Megatron checkpoints in ``torch_dist`` format, and exports in Hugging Face's."""

    load: str | None = None
    """A Megatron checkpoint directory to begin from; a job that already saved goes on from its own."""
    save: str | None = None
    """Unset: ``checkpoints`` in the job's run directory."""
    save_interval: Positive | None = None
    """Save after every this many rollouts. The last rollout is always saved."""
    save_hf: str | None = None
    """Where the trained model is exported at the end; unset: ``hf`` in the job's run directory."""
