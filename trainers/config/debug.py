"""One half of a run by itself, and its rollouts on disk."""

from typing import Literal, Self

from pydantic import model_validator

from engines.config import Section


class DebugConfig(Section):
    """``rollout_only`` takes no trainer and generates with the weights of ``model.hf_checkpoint``; ``train_only``
    takes no engine and trains on rollouts that were saved before."""

    mode: Literal["rollout_only", "train_only"] | None = None
    save_rollouts: str | None = None
    """A directory: every rollout is written there as it is handed to the trainer."""
    load_rollouts: str | None = None
    """A directory that ``save_rollouts`` wrote: its rollouts are trained on in place of new ones."""

    @model_validator(mode="after")
    def _halves_fit(self) -> Self:
        if self.mode == "train_only" and self.load_rollouts is None:
            raise ValueError("debug.mode train_only generates nothing: name the rollouts in debug.load_rollouts")
        if self.mode != "train_only" and self.load_rollouts is not None:
            raise ValueError("debug.load_rollouts needs no engines: set debug.mode to train_only")
        if self.load_rollouts is not None and self.save_rollouts is not None:
            raise ValueError("debug.save_rollouts would write again what debug.load_rollouts reads: leave one out")
        return self

    @property
    def generates(self) -> bool:
        return self.mode != "train_only"

    @property
    def trains(self) -> bool:
        return self.mode != "rollout_only"
