"""What is loaded and saved."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from engines.config import Positive, Section

type Iteration = Annotated[int, Field(ge=0)]


class CheckpointConfig(Section):
    """Megatron checkpoints, and exports in Hugging Face's format."""

    load: str | None = None
    """A directory of Megatron checkpoints to begin from. A job that already saved goes on from its own. With the
    same directory as ``save``, the run goes on with whatever is there, or begins it."""
    ckpt_step: Iteration | None = None
    """The iteration of ``load`` to take; unset, the one that its tracker names."""
    finetune: bool = False
    """Take the weights of ``load`` alone and begin at rollout 0."""
    start_rollout_id: Iteration | None = None
    """The rollout to begin with, whatever ``load`` says."""
    ref_load: str | None = None
    """The reference model's weights: a directory of Megatron checkpoints or a Hugging Face directory. Where ``load``
    holds nothing yet, training begins with them too if they are Megatron's. Unset: ``model.hf_checkpoint``."""
    ref_ckpt_step: Iteration | None = None
    save: str | None = None
    """Unset: ``checkpoints`` in the job's run directory."""
    save_interval: Positive | None = None
    """Save after every this many rollouts. The last rollout is always saved."""
    format: Literal["torch_dist", "torch"] = "torch_dist"
    """For saving. Loading finds out by itself. ``torch`` cannot be loaded under another parallel layout."""
    async_save: bool = False
    """Write checkpoints while training goes on, from a copy of the state in main memory. A checkpoint is reported, and
    resumed from, once it is whole on disk."""
    keep_last: Positive | None = None
    """Delete checkpoints of this run but its newest so many, once a newer one is whole."""
    keep_every: Positive | None = None
    """Keep those after which a multiple of this many rollouts was done, beside ``keep_last``."""
    verify: bool = True
    """Compare what is loaded with the checksums that were saved with it."""
    save_hf: str | None = None
    """Where the trained model is exported; unset: ``hf`` in the job's run directory. With ``{rollout_id}`` in it, at
    every save; otherwise at the end."""

    @property
    def exports_every_save(self) -> bool:
        return self.save_hf is not None and "{rollout_id}" in self.save_hf

    @field_validator("save_hf")
    @classmethod
    def _one_placeholder(cls, value: str | None) -> str | None:
        if value is not None and (unknown := set(re.findall(r"\{.*?\}", value)) - {"{rollout_id}"}):
            raise ValueError(
                f"checkpoint.save_hf: {sorted(unknown)[0]} is not known; the one placeholder is {{rollout_id}}"
            )
        return value

    @model_validator(mode="after")
    def _fields_have_their_partner(self) -> Self:
        if self.load is None:
            for name in ("ckpt_step", "start_rollout_id"):
                if getattr(self, name) is not None:
                    raise ValueError(f"checkpoint.{name} says where in checkpoint.load to begin: set that too")
            if self.finetune:
                raise ValueError("checkpoint.finetune takes the weights of checkpoint.load: set that too")
        if self.ref_ckpt_step is not None and self.ref_load is None:
            raise ValueError("checkpoint.ref_ckpt_step picks an iteration of checkpoint.ref_load: set that too")
        if self.async_save and self.format != "torch_dist":
            raise ValueError(
                "checkpoint.async_save needs checkpoint.format torch_dist: the torch format is only written at once"
            )
        if self.keep_every is not None and self.keep_last is None:
            raise ValueError("checkpoint.keep_every only spares what checkpoint.keep_last would delete: set that too")
        return self
