"""Engines and prompts that do as a test says."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.config import SamplingConfig
from engines.types import FinishReason, Generation, Sample
from trainers.config import RunConfig
from trainers.rollout.buffer import Buffer
from trainers.rollout.protocols import Generator, RolloutContext, RolloutDoors


@dataclass
class Engine:
    """Counts up from the last token to ``length`` tokens, one version per call or ``version``; ends early where
    ``cuts`` says so, and where it is aborted."""

    cuts: list[int] = field(default_factory=list[int])
    end: FinishReason = FinishReason.STOP
    length: int = 8
    version: int | None = None
    calls: list[tuple[list[int], int | None, str]] = field(default_factory=list[tuple[list[int], int | None, str]])
    aborted: list[str] = field(default_factory=list[str])

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
    ) -> Generation:
        self.calls.append((list(input_ids), max_new_tokens, rid))
        version = len(self.calls) if self.version is None else self.version
        await asyncio.sleep(0)
        budget = sampling.max_new_tokens if max_new_tokens is None else max_new_tokens
        done = len(input_ids) - 2
        cut = self.cuts.pop(0) if self.cuts else None
        return self.answer(
            input_ids,
            min(self.length - done, budget) if cut is None else min(cut, budget),
            rid,
            self.end if cut is None else FinishReason.ABORT,
            version,
        )

    @staticmethod
    def answer(input_ids: Sequence[int], count: int, rid: str, end: FinishReason, version: int) -> Generation:
        ids = [input_ids[-1] + 1 + i for i in range(count)]
        return Generation(
            rid=rid,
            output_ids=ids,
            log_probs=[-token / 100 for token in ids],
            finish_reason=end,
            weight_version=version,
            text="".join(f"{token} " for token in ids),
        )

    async def abort(self, rid: str) -> None:
        self.aborted.append(rid)


@dataclass
class RandomEngine(Engine):
    """Takes a random number of turns of the event loop for each token, and returns what it has when it is aborted: a
    request that is on its way, and all that come later, miss an abort, as they do at a real engine."""

    rng: random.Random = field(default_factory=random.Random)
    cut: float = 0.0
    """How likely the engine ends a response by itself before a token."""
    running: dict[str, bool] = field(default_factory=dict[str, bool])
    """By id: whether it is to end."""

    async def abort(self, rid: str) -> None:
        self.aborted.append(rid)
        for each in self.running:
            if each.startswith(rid):
                self.running[each] = True

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
    ) -> Generation:
        self.calls.append((list(input_ids), max_new_tokens, rid))
        left = min(
            self.length - (len(input_ids) - 2), sampling.max_new_tokens if max_new_tokens is None else max_new_tokens
        )
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        assert rid not in self.running, "two requests with one id"
        self.running[rid] = False
        try:
            for count in range(left):
                for _ in range(self.rng.randrange(4)):
                    await asyncio.sleep(0)
                if self.running[rid] or self.rng.random() < self.cut:
                    return self.answer(input_ids, count, rid, FinishReason.ABORT, self.version or 0)
            return self.answer(input_ids, left, rid, self.end, self.version or 0)
        finally:
            del self.running[rid]


class Prompts:
    """An endless source of prompts, each of the tokens 9 and 10."""

    def __init__(self) -> None:
        self.next = 0

    def __len__(self) -> int:
        return 1000

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        groups = [
            [
                Sample(index=(self.next + p) * n_samples + i, group_index=self.next + p, prompt="p", tokens=[9, 10])
                for i in range(n_samples)
            ]
            for p in range(n_prompts)
        ]
        self.next += n_prompts
        return groups

    def state(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


async def one(sample: Sample) -> float | None:
    return 1.0


def context(
    engine: Generator,
    reward: Callable[[Sample], Awaitable[float | None]] = one,
    *,
    data: Buffer | None = None,
    doors: RolloutDoors | None = None,
    progress: Callable[[str], None] = lambda text: None,
    version: int = 0,
    max_new_tokens: int = 8,
    **rollout: Any,
) -> RolloutContext:
    config = RunConfig.model_validate(
        {
            "model": {"hf_checkpoint": "/m"},
            "data": {"prompt_data": "/d.jsonl"},
            "rollout": {
                "num_rollouts": 1,
                "rollout_batch_size": 1,
                "sampling": {"max_new_tokens": max_new_tokens},
                **rollout,
            },
        }
    )
    return RolloutContext(
        config=config,
        data=data or Buffer(Prompts()),
        client=engine,
        reward=reward,
        tokenizer=None,
        base_url="",
        weight_version=version,
        progress=progress,
        doors=doors or RolloutDoors(),
    )
