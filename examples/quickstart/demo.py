"""``make demo``: a model with random weights learns sums from a reward alone, end to end on this machine."""

import shutil
import time
from pathlib import Path

from controlplane.cli.console import out
from examples.quickstart.build import build
from examples.quickstart.job import spec
from examples.show import private_rollway, run, summary

KEEP_SERVING_S = 60.0


def main() -> None:
    started = time.monotonic()
    work = Path.cwd() / ".cache" / "quickstart"
    out.print("[bold]Building[/] a small Qwen3 with random weights, its tokenizer, and sums for it to learn")
    build(work)
    export = work / "trained"
    shutil.rmtree(export, ignore_errors=True)
    job_spec = spec(work)
    job_spec["name"] = "quickstart"
    job_spec["engine"]["keep_serving_s"] = KEEP_SERVING_S
    job_spec["checkpoint"] = {"save_hf": str(export)}
    with private_rollway() as rollway:
        job = run(rollway, job_spec, ["1+2=", "3+4=", "4+4="])
        summary(rollway, job)
    out.print(f"in all    {time.monotonic() - started:.0f} s\n")
    out.print("[bold]What next[/]")
    out.print(f"  the trained model     {export}")
    out.print("  the job it ran        examples/quickstart/job.py, data in .cache/quickstart/sums.jsonl")
    out.print("  your own              source .venv/bin/activate && rollway up && rollway submit job.json --follow")
    out.print("  a pretrained model    python -m examples.smollm2.demo")
    out.print("  the whole story       docs/architecture.md")


if __name__ == "__main__":
    main()
