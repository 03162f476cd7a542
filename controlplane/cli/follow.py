"""A job on the terminal: what it is doing, a line per rollout, and its reward over time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from controlplane.sdk.errors import NotReachable

if TYPE_CHECKING:
    from controlplane.sdk import Evaluation, Event, Job, JobSummary, Rollway, Step

_BARS = "▁▂▃▄▅▆▇█"
_POLL_S = 0.4
_STYLE = {"succeeded": "green", "failed": "bold red", "cancelled": "yellow", "running": "cyan"}


def follow(
    rollway: Rollway,
    job_id: str,
    console: Console,
    *,
    until: Callable[[Job], bool] = lambda job: False,
    away_s: float = 3600.0,
) -> Job:
    """Show a job until it has ended or ``until`` holds; returns it. While the API is away, says so and waits, for
    ``away_s`` seconds at most (then NotReachable)."""
    seen = _Seen(job_id)
    away_since: float | None = None
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while True:
            try:
                job, steps, events, evaluations = seen.look(rollway)
            except NotReachable as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > away_s:
                    raise
                if time.monotonic() - away_since > 3:
                    live.update(Text(f"… {error}; the job goes on without it, waiting", style="yellow"))
                time.sleep(1.0)
                continue
            away_since = None
            for line in _lines(job, steps, events, evaluations, width=console.width):
                live.console.print(line)
            live.update(_status(job, seen.rewards, time.monotonic(), width=console.width))
            if job.ended or until(job):
                return job
            time.sleep(_POLL_S)


class _Seen:
    """What was shown already."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.rewards: list[float] = []
        self._rollout = -1
        self._event = 0
        self._version = -1

    def look(self, rollway: Rollway) -> tuple[Job, list[Step], list[Event], list[Evaluation]]:
        job = rollway.get(self.job_id)
        events = rollway.events(self.job_id, after=self._event)
        steps = rollway.steps(self.job_id, after=self._rollout)
        evaluations = (
            rollway.evaluations(self.job_id, after=self._version) if job.spec.get("eval", {}).get("sets") else []
        )
        self._version = evaluations[-1].weight_version if evaluations else self._version
        self._event = events[-1].id if events else self._event
        self._rollout = steps[-1].rollout_id if steps else self._rollout
        self.rewards += [step.values.get("reward") or 0.0 for step in steps]
        return job, steps, events, evaluations


def _lines(
    job: Job, steps: Sequence[Step], events: Sequence[Event], evaluations: Sequence[Evaluation], *, width: int
) -> Iterator[Text]:
    for event in events:
        style = {"info": "dim", "warning": "yellow", "error": "red"}[event.level]
        yield Text(f"{event.at.astimezone():%H:%M:%S}  {event.message}", style=style)
    for step in steps:
        yield Text.from_markup(step_line(step, job.progress.num_rollouts, width=width))
    for evaluation in evaluations:
        yield Text.from_markup(evaluation_line(evaluation))


def step_line(step: Step, num_rollouts: int, *, width: int = 120) -> str:
    """One rollout in a line, with its loss where nothing was scored. A terminal of less than 100 columns goes without
    the bar; 80 then suffice."""
    values = {name: value for name, value in step.values.items() if value is not None}
    figure = f"loss [bold]{values.get('loss', 0.0):.3f}[/]"
    if (reward := values.get("reward")) is not None:
        figure = f"reward [bold]{reward:.3f}[/]" + (f" [green]{bar(reward)}[/]" if width >= 100 else "")
    tokens_per_s = values.get("tokens_per_s", values.get("perf/tokens_per_s", 0.0))
    of = f"/{num_rollouts}" if num_rollouts else ""
    parts = [
        f"[bold]rollout {step.rollout_id + 1:>3}{of}[/]",
        figure,
        f"{tokens_per_s:>5,.0f} tok/s",
        f"gen {values.get('time/generate_s', 0):.1f}s",
        f"train {values.get('time/train_s', 0):.1f}s",
        f"sync {values.get('time/sync_s', 0):.1f}s",
        f"v{step.weight_version}",
    ]
    return "  ".join(parts)


def evaluation_line(evaluation: Evaluation) -> str:
    """One eval set of one version: its mean reward and pass@k, with half the width of the 95 % interval."""
    values = evaluation.values
    shown = [name for name in values if name == "reward" or (name.startswith("pass@") and not name.endswith("_ci95"))]
    figures = [
        f"{name} [bold]{value:.3f}[/]"
        + (f" ±{margin:.3f}" if (margin := values.get(f"{name}_ci95")) is not None else "")
        for name in shown
        if (value := values[name]) is not None
    ]
    return "  ".join([f"[cyan]eval {escape(evaluation.name)}[/] v{evaluation.weight_version}", *figures])


def bar(value: float, width: int = 12) -> str:
    """A reward between 0 and 1 as a bar."""
    filled = round(max(0.0, min(1.0, value)) * width)
    return "━" * filled + " " * (width - filled)


def sparkline(values: Sequence[float], width: int = 48) -> str:
    """The values as one line of blocks, the mean of neighbours where there are more than ``width``."""
    if not values:
        return ""
    groups = [values[len(values) * i // width : len(values) * (i + 1) // width] for i in range(width)]
    points = list(values) if len(values) <= width else [sum(group) / len(group) for group in groups]
    low, high = min(points), max(points)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((point - low) * scale)] for point in points)


def curve(values: Sequence[float], *, width: int = 64, height: int = 10) -> str:
    """A reward curve from 0 to 1 (or to the largest value) for a terminal, rollouts from left to right."""
    if not values:
        return ""
    columns = min(width, len(values))
    points = [
        sum(group) / len(group)
        for group in (values[len(values) * i // columns : len(values) * (i + 1) // columns] for i in range(columns))
    ]
    top = max(1.0, *points)
    wide = max(1, width // columns)
    rows: list[str] = []
    for row in range(height, 0, -1):
        cells = "".join((_cell(point / top * height - (row - 1))) * wide for point in points)
        label = f"{top * row / height:4.2f}" if row in (height, height // 2) else "    "
        rows.append(f"{label} ┤{cells}")
    rows.append(f"0.00 ┼{'─' * (columns * wide)}")
    rows.append(f"      rollout 1{f'rollout {len(values)}':>{max(1, columns * wide - 9)}}")
    return "\n".join(rows)


def _cell(fill: float) -> str:
    if fill <= 0:
        return " "
    return _BARS[min(len(_BARS) - 1, int(fill * len(_BARS)))] if fill < 1 else "█"


def _status(job: Job, rewards: Sequence[float], now: float, *, width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    spinner = "" if job.ended else "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(now * 8) % 10]
    state = Text(f"{spinner} {job.state}", style=_STYLE.get(job.state, ""))
    table.add_row(
        state,
        Text(rollouts_done(job)),
        Text(sparkline(rewards, min(48, max(8, (width - 30) // 3))), style="green"),
        Text(f"{job.phase or ''}{': ' if job.waiting_for else ''}{job.waiting_for or ''}", style="dim"),
    )
    return table


def rollouts_done(job: JobSummary) -> str:
    """Of how many; empty for a job that has none, as it only converts."""
    done = 0 if job.progress.rollout_id is None else job.progress.rollout_id + 1
    return f"{done}/{job.progress.num_rollouts}" if job.progress.num_rollouts else ""


def ending(job: Job) -> str:
    """How a job ended, in one line with markup."""
    style = _STYLE.get(job.state, "")
    detail = f": {escape(job.end_detail)}" if job.end_detail else ""
    return f"[{style}]{job.id} {job.state}[/] ({job.end_reason}){detail}" if style else f"{job.id} {job.state}"
