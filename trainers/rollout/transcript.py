"""Token ids that only grow, each with where it came from. What was sampled and what was read cannot be confused:
there is one way to append either, and none to change what is held."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engines.types import Generation


@dataclass(slots=True)
class Transcript:
    """``prompt``, then sampled and observed tokens in the order in which they came."""

    prompt: tuple[int, ...]
    _ids: list[int] = field(default_factory=list[int], init=False)
    _mask: list[int] = field(default_factory=list[int], init=False)
    _log_probs: list[float] = field(default_factory=list[float], init=False)
    _versions: list[int] = field(default_factory=list[int], init=False)
    _num_sampled: int = field(default=0, init=False)

    def sampled(self, generation: Generation) -> None:
        """Append what the engine sampled: trained on, with its log-probabilities and weight version."""
        count = len(generation.output_ids)
        if len(generation.log_probs) != count:
            raise ValueError(f"{count} sampled tokens came with {len(generation.log_probs)} log-probabilities")
        self._append(generation.output_ids, 1, generation.log_probs, generation.weight_version)
        self._num_sampled += count

    def observed(self, ids: Iterable[int], weight_version: int) -> None:
        """Append what a tool, a user or the template said: read by the policy, not trained on. It counts to the
        version of what was sampled last, or ``weight_version`` where nothing was."""
        read = list(ids)
        version = self._versions[-1] if self._versions else weight_version
        self._append(read, 0, [0.0] * len(read), version)

    def _append(self, ids: Sequence[int], bit: int, log_probs: Sequence[float], version: int) -> None:
        self._ids.extend(ids)
        self._mask.extend([bit] * len(ids))
        self._log_probs.extend(log_probs)
        self._versions.extend([version] * len(ids))

    def __len__(self) -> int:
        """Tokens, the prompt's among them."""
        return len(self.prompt) + len(self._ids)

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *self._ids]

    @property
    def response_length(self) -> int:
        return len(self._ids)

    @property
    def num_sampled(self) -> int:
        return self._num_sampled

    @property
    def loss_mask(self) -> list[int]:
        return list(self._mask)

    @property
    def log_probs(self) -> list[float]:
        """0 for what was not sampled."""
        return list(self._log_probs)

    @property
    def weight_versions(self) -> list[int]:
        return list(self._versions)

    @property
    def last_sampled(self) -> int | None:
        """The last token, if it was sampled."""
        return self._ids[-1] if self._mask and self._mask[-1] else None
