"""One job per algorithm, over the model and data of ``build.py``: small enough for a CPU, with each algorithm's own
fields in place. ``python -m examples.algorithms.jobs NAME DIRECTORY`` prints one as JSON, for ``rollway submit``."""

import json
import sys
from pathlib import Path
from typing import Any

from examples.quickstart.build import NUMBERS
from examples.quickstart.job import spec as quickstart

ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {
        "eps_clip_high": 0.28,
        "kl": {"estimator": "low_var_kl", "loss_coef": 0.001},
        "correction": {"method": "tis", "clip": 2.0},
        "entropy_coef": 0.08,
    },
    # The divisor is the longest response, in tokens.
    "dr_grpo": {"loss_divisor": 2, "entropy_coef": 0.08},
    "rloo": {"entropy_coef": 0.08},
    "reinforce_plus_plus": {"kl": {"reward_coef": 0.001}, "entropy_coef": 0.08},
    "reinforce_plus_plus_baseline": {"kl": {"estimator": "k2", "reward_coef": 0.001}, "entropy_coef": 0.08},
    "ppo": {"lambd": 0.95, "critic": {"lr": 1e-3, "num_critic_only_steps": 2}, "entropy_coef": 0.08},
    "gspo": {"eps_clip": 0.1, "entropy_coef": 0.08},
    "cispo": {"eps_clip": 1.0, "eps_clip_high": 4.0, "entropy_coef": 0.08},
    "sft": {"loss_aggregation": "token_mean"},
    "dpo": {"beta": 0.1},
}


def spec(name: str, directory: Path) -> dict[str, Any]:
    """The job of one algorithm. The data's own answers take the place of generation under SFT and DPO."""
    job = quickstart(directory)
    job["name"] = name.replace("_", "-")
    job["algorithm"] = {"name": name, **ALGORITHMS[name]}
    if name in ("sft", "dpo"):
        samples = {"sft": 1, "dpo": 2}[name]
        job["rollout"] |= {"num_rollouts": 60, "n_samples_per_prompt": samples}
        job["trainer"]["global_batch_size"] = samples * len(NUMBERS) ** 2
    if name == "dpo":
        job["data"]["prompt_data"] = str(directory / "preferences.jsonl")
    return job


if __name__ == "__main__":
    print(json.dumps(spec(sys.argv[1], Path(sys.argv[2])), indent=2))
