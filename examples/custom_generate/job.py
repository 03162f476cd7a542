"""The quickstart's job, with a calculator: ``python -m examples.custom_generate.job DIRECTORY`` prints it as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

from examples.quickstart.build import build
from examples.quickstart.job import spec as quickstart


def spec(directory: Path) -> dict[str, Any]:
    """For the model and data that the quickstart's ``build`` wrote to ``directory``."""
    job = quickstart(directory)
    job["rollout"] |= {
        "num_rollouts": 20,
        "sampling": {"temperature": 1.0, "max_new_tokens": 8},
        "reward": {"type": "custom", "function": "examples.custom_generate.calculator:reward"},
    }
    job["plugins"] = {"custom_generate_function": "examples.custom_generate.calculator:generate"}
    job["runtime"] = {"python_path": [str(Path(__file__).parents[2])]}
    return job


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    print(json.dumps(spec(Path(sys.argv[1])), indent=2))
