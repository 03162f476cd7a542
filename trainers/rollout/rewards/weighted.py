"""The weighted sum of several rules."""

import asyncio
import math
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
        weighted, values = list[float](), dict[str, Any]()
        for (name, weight, _), task in zip(self._parts, asked, strict=True):
            found = task.result()
            if found is None:
                return None
            weighted.append(weight * found.value)
            values[name] = found.value
            if found.parts is not None:
                values[f"{name}_parts"] = dict(found.parts)
        return Verdict(math.fsum(weighted), values)  # parts of 0.7, 0.2 and 0.1 are to make 1


async def _ask(judge: Judge, sample: Sample) -> Verdict | None:
    return await judge(sample)
