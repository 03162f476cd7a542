"""The weighted sum of several rules."""

import asyncio
from collections.abc import Sequence
from typing import Any

from engines.types import Sample
from trainers.rollout.rewards.verdict import Judge, Verdict


class WeightedJudge:
    """Asks all parts at once. A sample that one of them could not judge in time is not judged."""

    def __init__(self, parts: Sequence[tuple[str, float, Judge]]) -> None:
        self._parts = parts

    async def __call__(self, sample: Sample) -> Verdict | None:
        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(_ask(judge, sample)) for _, _, judge in self._parts]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        total, values = 0.0, dict[str, Any]()
        for (name, weight, _), task in zip(self._parts, asked, strict=True):
            found = task.result()
            if found is None:
                return None
            total += weight * found.value
            values[name] = found.value
            if found.parts is not None:
                values[f"{name}_parts"] = dict(found.parts)
        return Verdict(total, values)


async def _ask(judge: Judge, sample: Sample) -> Verdict | None:
    return await judge(sample)
