"""The job that teaches the model of ``build.py`` its sums, with the hyper-parameters that were found to work."""

from pathlib import Path
from typing import Any


def spec(directory: Path) -> dict[str, Any]:
    """A job spec for the model and data that ``build`` wrote to ``directory``: two engines' worth of work on two
    CPU cores, 45 rollouts of 512 answers."""
    return {
        "resources": {"accelerator": "cpu"},
        "model": {"hf_checkpoint": str(directory / "model")},
        "data": {
            "prompt_data": str(directory / "sums.jsonl"),
            "label_key": "label",
            "apply_chat_template": True,
            "shuffle": True,
        },
        "rollout": {
            "num_rollouts": 45,
            "rollout_batch_size": 32,
            "n_samples_per_prompt": 16,
            "sampling": {"temperature": 1.0, "max_new_tokens": 2},
            "reward": {"type": "exact_match"},
            "timeout_s": 300,
        },
        "algorithm": {"name": "grpo", "entropy_coef": 0.03},
        "trainer": {
            "dtype": "float32",
            "global_batch_size": 128,
            "lr": 1e-3,
            "adam_beta2": 0.98,
        },
        "engine": {"dtype": "float32"},
    }
