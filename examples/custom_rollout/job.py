"""The quickstart's job with a rollout function of ours: ``python -m examples.custom_rollout.job DIRECTORY``."""

import json
import sys
from pathlib import Path
from typing import Any

from examples.quickstart.build import build
from examples.quickstart.job import spec as quickstart


def spec(directory: Path) -> dict[str, Any]:
    """For the model and data that the quickstart's ``build`` wrote to ``directory``."""
    job = quickstart(directory)
    job["rollout"]["num_rollouts"] = 20
    job["plugins"] = {
        "rollout_function": "examples.custom_rollout.contrast:rollout",
        "arguments": {"rounds": 2},
    }
    job["runtime"] = {"python_path": [str(Path(__file__).parents[2])]}
    return job


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    print(json.dumps(spec(Path(sys.argv[1])), indent=2))
