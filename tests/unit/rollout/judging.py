"""Programs judged in tests, where they can be isolated."""

from typing import Any

import pytest

from engines.types import Sample, SampleStatus
from trainers.config.reward import CodeRewardConfig
from trainers.rollout.rewards.code.judge import CodeReward
from trainers.rollout.rewards.code.sandbox import isolation_refused

isolated = pytest.mark.skipif(isolation_refused() is not None, reason=f"no isolation here: {isolation_refused()}")


async def judged(source: str, tests: list[Any], **fields: Any) -> tuple[float, dict[str, Any]]:
    judge = CodeReward(CodeRewardConfig(case_timeout_s=2.0, memory_mb=256, **fields))
    response = f"Here:\n```python\n{source}\n```"
    verdict = await judge(
        Sample(0, 0, prompt="", response=response, status=SampleStatus.COMPLETED, metadata={"tests": tests})
    )
    return verdict.value, dict(verdict.parts or {})
