"""Commands about jobs: each is one call of the SDK and a way to show its answer."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from controlplane.cli.console import out, plain_errors
from controlplane.cli.follow import ending, follow, rollouts_done, sparkline
from controlplane.cli.spec_file import read_spec

if TYPE_CHECKING:
    from controlplane.sdk import Rollway

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as 'rollway jobs' shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer as JSON.")]


def submit(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A job spec: JSON, or YAML by its suffix.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Set one field.")] = None,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Show the job until it ends.")] = False,
    key: Annotated[str | None, typer.Option("--idempotency-key", help="Submit at most once under this key.")] = None,
) -> None:
    """Submit a job."""
    with plain_errors():
        submit_spec(read_spec(spec, set_ or []), idempotency_key=key, follow=follow_)


def submit_spec(spec: dict[str, Any], *, follow: bool, idempotency_key: str | None = None) -> None:
    """Submit it and print its id, or show it until it ends."""
    with _client() as rollway:
        job = rollway.submit(spec, idempotency_key=idempotency_key)
        out.print(job.id if not follow else f"submitted [bold]{job.id}[/]")
        if follow:
            _follow(rollway, job.id)


def follow_job(job_id: JobId) -> None:
    """Show a job as it runs, to its end. Exit code 0 if it succeeds."""
    with plain_errors(), _client() as rollway:
        _follow(rollway, job_id)


def jobs(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with plain_errors(), _client() as rollway:
        found = rollway.jobs(states=tuple(state or ()), limit=limit)
        if as_json:
            out.print_json(json.dumps([job.model_dump(mode="json") for job in found]))
            return
        table = Table(box=None, header_style="bold")
        for name in ("job", "name", "state", "rollouts", "doing"):
            table.add_column(
                name, no_wrap=name not in ("name", "doing"), overflow="fold"
            )  # an id is of use whole alone
        for job in found:
            doing = str(job.end_reason or "") if job.finished_at else f"{job.phase or ''} {job.waiting_for or ''}"
            table.add_row(job.id, escape(job.name or ""), job.state, rollouts_done(job), escape(doing.strip()))
        out.print(table if found else "no jobs")


def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job."""
    with plain_errors(), _client() as rollway:
        job = rollway.get(job_id)
        if as_json:
            out.print_json(job.model_dump_json())
            return
        facts: dict[str, object] = {
            "job": job.id,
            "name": job.name,
            "state": job.state,
            "phase": f"{job.phase}: waiting for {job.waiting_for}" if job.phase and not job.ended else None,
            "rollouts": rollouts_done(job),
            "weights": None if job.progress.weight_version is None else f"version {job.progress.weight_version}",
            "attempt": f"{job.attempt} of at most {job.max_attempts}",
            "OpenAI API": job.openai_base_url,
            "ended": job.end_reason,
            "because": job.end_detail,
        }
        for name, value in facts.items():
            if value is not None and value != "":
                out.print(f"[bold]{name:>10}[/]  {escape(str(value))}", soft_wrap=True)
        rewards = [value for step in rollway.steps(job_id) if (value := step.value("reward")) is not None]
        if rewards:
            out.print(f"[bold]{'reward':>10}[/]  [green]{sparkline(rewards)}[/] {rewards[0]:.3f} → {rewards[-1]:.3f}")


def events(job_id: JobId, as_json: AsJson = False) -> None:
    """Show what happened to a job."""
    with plain_errors(), _client() as rollway:
        found = rollway.events(job_id)
        if as_json:
            out.print_json(json.dumps([event.model_dump(mode="json") for event in found]))
            return
        for event in found:
            style = {"info": "", "warning": "yellow", "error": "red"}[event.level]
            line = f"{event.at.astimezone():%Y-%m-%d %H:%M:%S}  {event.attempt}  {event.type:<24} {event.message}"
            out.print(line, style=style, markup=False)


def metrics(
    job_id: JobId,
    name: Annotated[list[str] | None, typer.Option("--name", "-n", help="Which metrics; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's metrics, one row per rollout."""
    with plain_errors(), _client() as rollway:
        steps = rollway.steps(job_id)
        if as_json:
            out.print_json(json.dumps([step.model_dump(mode="json") for step in steps]))
            return
        names = name or [
            "reward",
            "response_length",
            "loss",
            "grad_norm",
            "log_prob_diff",
            "tokens_per_s",
            "time/step_s",
        ]
        table = Table("rollout", "weights", *names, box=None, header_style="bold")
        for step in steps:
            values = [step.value(each) for each in names]
            cells = ["" if value is None else f"{value:.4g}" for value in values]
            table.add_row(str(step.rollout_id), f"v{step.weight_version}", *cells)
        out.print(table)


def checkpoints(job_id: JobId, as_json: AsJson = False) -> None:
    """Show where a job's checkpoints and exports are."""
    with plain_errors(), _client() as rollway:
        found = rollway.checkpoints(job_id)
        if as_json:
            out.print_json(json.dumps([each.model_dump(mode="json") for each in found]))
            return
        for each in found:
            out.print(f"rollout {each.rollout_id:>5}  {each.format:<8} {each.path}", markup=False, soft_wrap=True)


def finish(job_id: JobId) -> None:
    """End a job well at its next rollout: it saves, exports and succeeds."""
    with plain_errors(), _client() as rollway:
        rollway.finish(job_id)
        out.print(f"{job_id} will finish after the rollout in hand")


def cancel(job_id: JobId) -> None:
    """End a job now."""
    with plain_errors(), _client() as rollway:
        job = rollway.cancel(job_id)
        out.print(f"{job_id} is {job.state}" if job.finished_at else f"{job_id} will be cancelled")


def chat(
    job_id: JobId,
    prompt: str,
    temperature: Annotated[float, typer.Option(min=0)] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
) -> None:
    """Ask the policy of a running job, with its weights of this moment."""
    with plain_errors(), _client(timeout_s=600) as rollway:
        messages = [{"role": "user", "content": prompt}]
        out.print(rollway.chat(job_id, messages, temperature=temperature, max_tokens=max_tokens), markup=False)


def _follow(rollway: "Rollway", job_id: str) -> None:
    try:
        job = follow(rollway, job_id, out)
    except KeyboardInterrupt:
        out.print(f"the job goes on: rollway follow {job_id}", soft_wrap=True)
        raise
    out.print(ending(job))
    if not job.succeeded:
        raise typer.Exit(1)


def _client(*, timeout_s: float = 30.0) -> "Rollway":
    from controlplane.sdk import Rollway  # half a second, which `rollway --help` need not wait

    return Rollway(timeout_s=timeout_s)
