"""The job that teaches the model of ``build.py`` its sums, with hyper-parameters that were found by trying.

What matters, in order: an entropy bonus (without it the policy settles on a few frequent answers and stops
trying others); every question in every rollout, 64 times each (a group that holds no right answer teaches
nothing, and with 32 some runs never find some sums); several small optimizer steps per rollout; a learning rate
that falls (a late step at full rate may undo a sum).
"""

from pathlib import Path
from typing import Any

from examples.quickstart.build import NUMBERS


def spec(directory: Path) -> dict[str, Any]:
    """A job spec for the model and data that ``build`` wrote to ``directory``: one training process and one
    engine on the CPU, and 1,024 answers of at most two tokens per rollout."""
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
            "rollout_batch_size": len(NUMBERS) ** 2,
            "n_samples_per_prompt": 64,
            "sampling": {"temperature": 1.0, "max_new_tokens": 2},
            "reward": {"type": "exact_match"},
            "timeout_s": 300,
        },
        "algorithm": {"name": "grpo", "entropy_coef": 0.08},
        "trainer": {"dtype": "float32", "global_batch_size": 256, "lr": 1e-3, "lr_decay_style": "linear"},
        "engine": {"dtype": "float32"},
    }
