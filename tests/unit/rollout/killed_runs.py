"""A run without its trainer, in a process to be killed: prompts from a file, the shipped rollout, a saved position."""

import asyncio
import json
import os
import random
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.unit.rollout.scripted import RandomEngine, context
from tests.unit.rollout.test_data import Characters
from trainers.config import DataConfig
from trainers.rollout.buffer import Buffer
from trainers.rollout.data import PromptData
from trainers.rollout.default import generate_rollout

SAVE_INTERVAL = 3


def run(directory: Path, prompts: Path, total: int, pace: Connection | None) -> None:
    """From the last save, if there is one, to ``total`` rollouts. What each would train on is a line of
    ``seen.jsonl``. With a ``pace`` each is announced, and the next waits until it was heard of."""
    os.environ["ROLLWAY_CACHE"] = str(directory / "cache")
    config = DataConfig.model_validate({"prompt_data": str(prompts), "shuffle": True, "seed": 3})
    data = Buffer(PromptData(config, Characters()))
    position, first = directory / "position.json", 0
    if position.exists():
        saved = json.loads(position.read_text())
        first = saved["next"]
        data.load_state(saved["data"])
    with (directory / "seen.jsonl").open("a") as seen:
        for rollout_id in range(first, total):
            groups = asyncio.run(_rollout(data, rollout_id))
            seen.write(json.dumps({"rollout": rollout_id, "groups": groups}) + "\n")
            seen.flush()
            if (rollout_id + 1) % SAVE_INTERVAL == 0:
                partial = position.with_suffix(".partial")
                partial.write_text(json.dumps({"next": rollout_id + 1, "data": data.state()}))
                partial.replace(position)
            if pace is not None:
                pace.send(rollout_id)
                pace.recv()


async def _rollout(data: Buffer, rollout_id: int) -> list[Any]:
    # It cuts nothing by itself: what is asked again waits for the clock, and what is ready first would not be the same.
    engine = RandomEngine(rng=random.Random(rollout_id), version=rollout_id, length=5)
    asked = context(
        engine,
        data=data,
        version=rollout_id,
        max_new_tokens=5,
        rollout_batch_size=3,
        over_sampling_batch_size=5,
        n_samples_per_prompt=2,
        partial_rollout=True,
    )
    output = await generate_rollout(asked, rollout_id)
    return [[[s.index, s.group_index, s.prompt, s.tokens, s.weight_versions] for s in group] for group in output.groups]
