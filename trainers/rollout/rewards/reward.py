"""The reward of a run: what scores its samples, and what that holds."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from engines.types import Sample
from trainers.errors import RolloutFailed
from trainers.rollout.rewards.verdict import Judge, Unjudgeable, Verdict

type GroupJudge = Callable[[Sequence[Sample]], Awaitable[list[Verdict | None]]]

PARTS = "rewards"
"""The key of a sample's metadata that keeps what its reward was made of."""


class Reward:
    """Scores samples, one at a time or a group at a time (``by_group``), and owns the processes and connections that
    takes. What a reward was made of is kept in ``sample.metadata["rewards"]``."""

    def __init__(self, judge: Judge | None, *, group_judge: GroupJudge | None, resources: AsyncExitStack) -> None:
        self._judge = judge
        self._group_judge = group_judge
        self._resources = resources

    @property
    def by_group(self) -> bool:
        """Whether whole groups are to be scored together, with :meth:`score_group`."""
        return self._group_judge is not None

    async def __call__(self, sample: Sample) -> float | None:
        """The reward of one finished sample; None says that it could not be judged in time.

        Raises RolloutFailed when it cannot be judged at all, and for a reward of whole groups.
        """
        if self._judge is None:
            raise RolloutFailed("reward.group_rm: the reward function takes whole groups, and was given one sample")
        try:
            found = await self._judge(sample)
        except Unjudgeable as error:
            raise RolloutFailed(f"sample {sample.index}: {error}") from None
        return _kept(sample, found)

    async def score_group(self, samples: Sequence[Sample]) -> list[float | None]:
        """The rewards of one group's finished samples, by a reward of whole groups."""
        assert self._group_judge is not None
        verdicts = await self._group_judge(samples)
        return [_kept(sample, found) for sample, found in zip(samples, verdicts, strict=True)]

    async def close(self) -> None:
        """End the processes and connections. More than once is harmless."""
        await self._resources.aclose()

    async def __aenter__(self) -> "Reward":
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.close()


def _kept(sample: Sample, found: Verdict | None) -> float | None:
    if found is None:
        return None
    if found.parts is not None:
        sample.metadata[PARTS] = dict(found.parts)
    return found.value
