"""What a job says that converts weights instead of training."""

from typing import Annotated, Literal

from pydantic import Field

from engines.config import Seconds, Section
from trainers.config.checkpoint import Iteration
from trainers.config.runtime import RuntimeConfig


class ToMegatron(Section):
    """A Hugging Face directory into a ``release`` checkpoint that any parallel layout can load."""

    to: Literal["megatron"]
    hf_checkpoint: str
    save: str | None = None
    """A directory of checkpoints that holds none yet; unset: ``checkpoints`` in the job's run directory."""
    check: bool = False
    """Read both again and compare every tensor, bit for bit."""


class ToHuggingFace(Section):
    """A ``torch_dist`` checkpoint that any layout saved, into a Hugging Face directory."""

    to: Literal["hf"]
    load: str
    """A directory of Megatron checkpoints."""
    ckpt_step: Iteration | None = None
    """The iteration of ``load`` to take; unset, the one that its tracker names."""
    hf_checkpoint: str
    """Where config, tokenizer and dtype come from."""
    save: str | None = None
    """The directory to write, or to replace; unset: ``hf`` in the job's run directory."""
    check: bool = False
    """Read both again and compare every tensor, bit for bit."""


type Conversion = Annotated[ToMegatron | ToHuggingFace, Field(discriminator="to")]


class ConversionResources(Section):
    """One CPU, on any node."""

    placement_timeout_s: Seconds = 300.0


class ConversionConfig(Section):
    """Everything that one conversion needs to know."""

    conversion: Conversion
    resources: ConversionResources = ConversionResources()
    runtime: RuntimeConfig = RuntimeConfig()
