"""Commands about the services on this machine."""

import threading
from typing import Annotated

import typer
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner

from controlplane.cli.console import UserError, out, plain_errors
from controlplane.local.errors import LocalError
from controlplane.local.parts import Part, PartState, Stage
from controlplane.settings import Settings

_LABELS = {
    Stage.STARTED: "[green]started[/]",
    Stage.RUNNING: "[green]running[/]",
    Stage.EXTERNAL: "[cyan]yours[/]  ",
    Stage.STOPPED: "[dim]stopped[/]",
    Stage.FAILED: "[bold red]failed[/] ",
    Stage.UNREADY: "[yellow]unready[/]",
}


def up() -> None:
    """Start Postgres, Ray and the API on this machine, as far as they do not run, and say where each is."""
    from controlplane.local import installation

    with plain_errors():
        settings = _settings()
        try:
            with _Progress() as progress:
                api = installation.up(settings, progress)
        except LocalError as error:
            raise UserError(str(error)) from error
        out.print(f"\n  API key    {settings.api_key_path}", markup=False, soft_wrap=True)
        out.print(f"  reference  {api.url}/docs", markup=False, soft_wrap=True)
        out.print(
            f"  logs       {settings.home / 'logs'}, each job's in {settings.runs_dir}", markup=False, soft_wrap=True
        )
        out.print("\nNext: [bold]rollway submit job.json --follow[/]")


def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="Then delete its jobs, checkpoints and logs, for good.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """End the services of this home, with the jobs that run on them, and nothing else."""
    from controlplane.local import installation

    with plain_errors():
        settings = _settings()
        if purge and not yes:
            typer.confirm(f"Delete everything in {settings.home}?", abort=True)
        try:
            with _Progress() as progress:
                installation.down(settings, progress)
            if purge:
                installation.remove(settings)
        except LocalError as error:
            raise UserError(str(error)) from error


def status() -> None:
    """Show what runs on this machine. Exit code 0 if jobs can run."""
    from controlplane.local import installation

    with plain_errors():
        settings = _settings()
        try:
            parts = installation.status(settings)
        except LocalError as error:
            raise UserError(str(error)) from error
        out.print(f"[dim]home[/] {escape(str(settings.home))}", soft_wrap=True)
        for part in parts:
            out.print(_line(part), soft_wrap=True)
        if any(part.stage not in (Stage.RUNNING, Stage.EXTERNAL) for part in parts):
            raise typer.Exit(1)


class _Progress:
    """A line for each part that is done; below them, on a terminal, what is still under way."""

    def __init__(self) -> None:
        self._under_way: list[Part] = []
        self._lock = threading.Lock()
        self._live = Live(console=out, transient=True, refresh_per_second=10)

    def __enter__(self) -> "_Progress":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, state: PartState) -> None:
        with self._lock:
            if state.stage is Stage.STARTING:
                self._under_way.append(state.part)
            else:
                self._under_way = [part for part in self._under_way if part is not state.part]
                self._live.console.print(_line(state), soft_wrap=True)
            self._live.update(Spinner("dots", text=f"starting {', '.join(self._under_way)}") if self._under_way else "")


def _line(state: PartState) -> str:
    return f"  {state.part:<10} {_LABELS[state.stage]}  {escape(state.where)}"


def _settings() -> Settings:
    try:
        return Settings.from_environment()
    except ValueError as error:
        raise UserError(str(error)) from error
