"""A pretrained model, SmolLM2-135M-Instruct, learns small sums.

    python -m examples.smollm2.demo

The same path as the quickstart, with a real model in bf16; on two CPU cores a rollout takes about a minute.
"""

import itertools
import json
from pathlib import Path
from typing import Any

from controlplane.cli.console import out
from examples.show import private_rollway, run, summary
from examples.smollm2.build import model

NUM_ROLLOUTS = 10
KEEP_SERVING_S = 120.0


def write_task(path: Path) -> None:
    """The sums of two numbers up to four, in words that an instruct model follows."""
    pairs = itertools.product(range(1, 5), repeat=2)
    rows = [{"input": f"What is {a} plus {b}?", "label": str(a + b)} for a, b in pairs]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def spec(model_directory: Path, data: Path) -> dict[str, Any]:
    return {
        "name": "smollm2",
        "resources": {"accelerator": "auto"},
        "model": {"hf_checkpoint": str(model_directory)},
        "data": {"prompt_data": str(data), "label_key": "label", "apply_chat_template": True, "shuffle": True},
        "rollout": {
            "num_rollouts": NUM_ROLLOUTS,
            "rollout_batch_size": 16,
            "n_samples_per_prompt": 8,
            "sampling": {"temperature": 1.0, "max_new_tokens": 12},
            "reward": {"type": "last_number"},
        },
        "trainer": {"dtype": "bfloat16", "lr": 3e-5, "max_tokens_per_gpu": 4096},
        "engine": {"dtype": "bfloat16", "keep_serving_s": KEEP_SERVING_S},
    }


def main() -> None:
    data = Path.cwd() / ".cache" / "smollm2" / "sums.jsonl"
    write_task(data)
    job_spec = spec(model(), data)
    with private_rollway() as rollway:
        job = run(rollway, job_spec, ["What is 3 plus 4?", "What is 2 plus 2?"])
        summary(rollway, job)
    out.print("The path of a job is described in docs/architecture.md")


if __name__ == "__main__":
    main()
