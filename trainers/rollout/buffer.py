"""Groups that wait between rollouts, in front of the data they came from."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from engines.types import Sample
from trainers.errors import CheckpointInvalid, RolloutFailed
from trainers.rollout.samples import check_encodable, decode_groups, encode_groups


class Source(Protocol):
    """Prompts that are handed out once: a data source that takes nothing back."""

    def __len__(self) -> int: ...

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


type BufferFilter = Callable[[list[list[Sample]], int], list[list[Sample]]]
"""From the buffer and a number of groups to those that go on first; takes them out of the buffer."""


class Buffer:
    """A data source that takes groups back and hands them out first, with all that they hold. Saved and restored with
    it, so that no token is lost between runs."""

    def __init__(self, source: Source, *, choose: BufferFilter | None = None) -> None:
        self._source = source
        self._choose = choose or pop_first
        self._groups: list[list[Sample]] = []

    def __len__(self) -> int:
        return len(self._source)

    @property
    def num_waiting(self) -> int:
        """Groups in the buffer."""
        return len(self._groups)

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        """Buffered groups, then new ones. Raises RolloutFailed when the filter returns more than was asked for, or does
        not return what it takes out of the buffer, sample for sample."""
        before, held = len(self._groups), _ids(self._groups)
        chosen = self._choose(self._groups, n_prompts) if before else []
        if len(chosen) > n_prompts or len(self._groups) + len(chosen) != before:
            raise RolloutFailed(
                f"plugins.buffer_filter returned {len(chosen)} of {before} groups for the {n_prompts} asked for, and "
                f"left {len(self._groups)}: it must take out what it returns, and no more"
            )
        if _ids([*chosen, *self._groups]) != held:
            raise RolloutFailed(
                "plugins.buffer_filter lost samples, or made some: each that was in the buffer must be in what it "
                "returns or in what it leaves, once"
            )
        return [*chosen, *self._source.next_groups(n_prompts - len(chosen), n_samples)]

    def put_back(self, groups: Sequence[list[Sample]]) -> None:
        """Raises RolloutFailed for a group that is here already, and for what no checkpoint could hold: now, where it
        comes from is known."""
        here = {id(group) for group in self._groups}
        for group in groups:
            if not group or id(group) in here:
                what = "a group without samples" if not group else f"the group of sample {group[0].index} twice"
                raise RolloutFailed(f"the rollout put back {what}")
            here.add(id(group))
            for sample in group:
                _check(sample)
        self._groups += groups

    def state(self) -> dict[str, Any]:
        """JSON that gives everything back bit for bit. Raises RolloutFailed, as :meth:`put_back` does, for groups that
        were changed since."""
        try:
            return {"source": self._source.state(), "waiting": encode_groups(self._groups)}
        except TypeError as error:
            raise RolloutFailed(f"a buffered group cannot be saved: {error}") from error

    def load_state(self, state: dict[str, Any]) -> None:
        """Raises CheckpointInvalid for what :meth:`state` did not write; nothing has changed then."""
        try:
            source, waiting = state["source"], decode_groups(state["waiting"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointInvalid(f"the saved buffer cannot be read: {type(error).__name__}: {error}") from error
        self._source.load_state(source)
        self._groups = waiting


def pop_first(buffer: list[list[Sample]], n_groups: int) -> list[list[Sample]]:
    """The oldest groups."""
    chosen, buffer[:] = buffer[:n_groups], buffer[n_groups:]
    return chosen


def _ids(groups: Sequence[list[Sample]]) -> list[int]:
    return sorted(id(sample) for group in groups for sample in group)


def _check(sample: Sample) -> None:
    parts = {
        "loss_mask": len(sample.loss_mask),
        "rollout_log_probs": len(sample.rollout_log_probs),
        "weight_versions": len(sample.weight_versions),
    }
    if wrong := {name: count for name, count in parts.items() if count != sample.response_length}:
        raise RolloutFailed(
            f"the rollout put back sample {sample.index} with response_length {sample.response_length}, but {wrong}: "
            "each has one entry per token of the response"
        )
    try:
        check_encodable(sample)
    except TypeError as error:
        raise RolloutFailed(f"the rollout put back what no checkpoint can hold: {error}") from error
