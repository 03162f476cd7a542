"""What the examples share: a Rollway of their own, a job followed to its result, and its reward curve."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from controlplane.cli.console import out
from controlplane.cli.follow import curve, ending, follow
from controlplane.sdk import Job, Rollway
from trainers.reports import Phase

ROLLWAY = str(Path(sys.executable).with_name("rollway"))


@contextmanager
def private_rollway() -> Generator[Rollway]:
    """A Rollway in a home of its own, ended with all that it started whatever happens; its logs stay if it failed."""
    # In /tmp: the home of a user may be on a network disk, where a database does badly.
    home = Path(tempfile.mkdtemp(prefix="rollway-demo-"))
    os.environ["ROLLWAY_HOME"] = str(home)
    # An ending by signal is an ending like any other: what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out.print(f"\n[bold]Starting Rollway[/] [dim](ROLLWAY_HOME={home})[/]")
    try:
        subprocess.run([ROLLWAY, "up"], check=True, timeout=300)
        with Rollway() as rollway:
            yield rollway
    except BaseException:
        out.print(f"[red]The example did not finish.[/] Logs: {home}")
        _down()
        raise
    _down()
    shutil.rmtree(home, ignore_errors=True)


def _down() -> None:
    out.print("\n[bold]Stopping Rollway[/]")
    subprocess.run([ROLLWAY, "down"], check=True, timeout=120)


def run(rollway: Rollway, spec: dict[str, Any], questions: list[str]) -> Job:
    """Submit ``spec``, follow it until it serves its trained policy, show what it learned, ask it, let it finish."""
    job = rollway.submit(spec)
    out.print(f"\n[bold]Submitted[/] {job.id}; POST {rollway.url}/v1/jobs\n")
    job = follow(rollway, job.id, out, until=lambda job: job.phase is Phase.SERVING)
    if job.ended:
        out.print(ending(job))
        raise SystemExit(1)

    rewards = [step.value("reward") or 0.0 for step in rollway.steps(job.id)]
    out.print("\n[bold]Mean reward[/]\n")
    out.print(curve(rewards), style="green")
    url = f"{job.openai_base_url}/chat/completions"
    out.print(f"\n[bold]Asking the trained policy[/] through {url}\n", soft_wrap=True)
    for question in questions:
        answer = rollway.chat(job.id, [{"role": "user", "content": question}], temperature=0, max_tokens=32)
        out.print(f"  {question} [bold]{answer}[/]")
    rollway.finish(job.id)
    job = rollway.wait(job.id, timeout_s=120)
    out.print(f"\n{ending(job)}")
    return job


def summary(rollway: Rollway, job: Job) -> None:
    """First and last rewards, and where the time went."""
    steps = rollway.steps(job.id)
    rewards = [step.value("reward") or 0.0 for step in steps]

    def total(name: str) -> float:
        return sum(step.value(f"time/{name}_s") or 0.0 for step in steps)

    whole = total("step")
    other = whole - total("generate") - total("train") - total("sync")
    out.print(f"reward    first five rollouts {_mean(rewards[:5]):.2f}, last five {_mean(rewards[-5:]):.2f}")
    out.print(
        f"time      {whole:.0f} s in {len(steps)} rollouts: generate {total('generate') / whole:.0%}, "
        f"train {total('train') / whole:.0%}, weight sync {total('sync') / whole:.0%}, all else {other / whole:.0%}"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
