"""A job that plays guess the number: ``python -m examples.multi_turn.job DIRECTORY`` builds its model and games and
prints it as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

from examples.quickstart import build as quickstart
from examples.quickstart.job import spec as quickstart_spec

NUMBERS = range(1, 10)


def build(directory: Path) -> None:
    """The quickstart's model, and ``games.jsonl``: the same question with each number to guess."""
    quickstart.build(directory)
    rows = [{"input": f"{NUMBERS[0]}={NUMBERS[-1]}", "label": str(number)} for number in NUMBERS]
    (directory / "games.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def spec(directory: Path) -> dict[str, Any]:
    """For what :func:`build` wrote to ``directory``. A game pays by itself: no reward function is asked."""
    job = quickstart_spec(directory)
    job["data"]["prompt_data"] = str(directory / "games.jsonl")
    job["rollout"] |= {
        "num_rollouts": 20,
        "rollout_batch_size": len(NUMBERS),
        "sampling": {"temperature": 1.0, "max_new_tokens": 8},
    }
    job["trainer"]["global_batch_size"] = len(NUMBERS) * job["rollout"]["n_samples_per_prompt"] // 2
    job["plugins"] = {"custom_generate_function": "examples.multi_turn.guess:play"}
    job["runtime"] = {"python_path": [str(Path(__file__).parents[2])]}
    return job


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    print(json.dumps(spec(Path(sys.argv[1])), indent=2))
