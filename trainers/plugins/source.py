"""A data source of the user's, whose errors and wrong answers are told with its name."""

from typing import Any

from engines.types import Sample
from trainers.errors import RolloutFailed
from trainers.plugins.call import guarded
from trainers.plugins.outputs import checked_groups
from trainers.rollout.buffer import Source


class CheckedSource:
    """``source``, which ``path`` names. Raises :class:`trainers.errors.RolloutFailed` where it raises, or hands out
    anything but as many groups of samples as it was asked for."""

    def __init__(self, source: Source, path: str) -> None:
        self._source = source
        self._path = path

    def __len__(self) -> int:
        return guarded(len, f"{self._path}.__len__")(self._source)

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        name = f"{self._path}.next_groups"
        groups = checked_groups(guarded(self._source.next_groups, name)(n_prompts, n_samples), name)
        if len(groups) != n_prompts or not all(groups):
            empty = sum(not group for group in groups)
            raise RolloutFailed(
                f"{name} was asked for {n_prompts} groups and returned {len(groups)}"
                + (
                    f", of which {empty} are empty"
                    if empty
                    else ": at the end of its data it goes on from the beginning"
                )
            )
        return groups

    def state(self) -> dict[str, Any]:
        return guarded(self._source.state, f"{self._path}.state")()

    def load_state(self, state: dict[str, Any]) -> None:
        guarded(self._source.load_state, f"{self._path}.load_state")(state)
