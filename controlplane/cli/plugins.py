"""Commands about the user's own functions. The job's side knows the doors: it is asked in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from controlplane.cli.console import UserError, out, plain_errors

CHECK_TIMEOUT_S = 300.0
"""Loading a plug-in may import torch, Megatron or SGLang."""

app = typer.Typer(help="Your own functions: which doors there are, and whether a function fits.", no_args_is_help=True)


@app.command("check")
def check(
    path: Annotated[str, typer.Argument(help="package.module:function, or slime's package.module.function.")],
    door: Annotated[str | None, typer.Option("--door", help="The door it is meant for; unset: all it fits.")] = None,
    python_path: Annotated[
        list[Path] | None, typer.Option("--python-path", help="Where it is found, as runtime.python_path.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Load a function and say which door it fits and in which form, or exactly what is wrong. Exit code 1: it does
    not fit."""
    with plain_errors():
        answer = _ask(["check", path, *(["--door", door] if door else [])], python_path or [])
        if as_json:
            typer.echo(json.dumps(answer, indent=2))
        elif "error" not in answer:
            for fit in answer["fits"]:
                form = "slime's form" if fit["form"] == "slime" else "Rollway's form"
                out.print(
                    f"[green]fits[/] [bold]{fit['door']}[/] in {form}, called as {escape(fit['called_as'])}\n"
                    f"     set {fit['field']}",
                    soft_wrap=True,
                )
            if len(answer["fits"]) > 1:
                out.print("several: --door names the one that it is meant for")
        if "error" in answer:
            if as_json:
                raise typer.Exit(1)
            raise UserError(answer["error"])


@app.command("list")
def list_doors(as_json: Annotated[bool, typer.Option("--json", help="Print the doors as JSON.")] = False) -> None:
    """All doors, with the signatures that each takes."""
    with plain_errors():
        doors = _ask(["list"], [])["doors"]
        if as_json:
            typer.echo(json.dumps(doors, indent=2))
            return
        for door in doors:
            out.print(f"[bold]{door['name']}[/]  {escape(door['summary'])}", soft_wrap=True)
            out.print(f"  [dim]field[/]  {door['field']}   [dim]slime[/]  {escape(door['flag'])}", soft_wrap=True)
            out.print(f"  [dim]takes[/]  {escape(door['native'])}", soft_wrap=True)
            if door["slime"]:
                out.print(f"  [dim]or[/]     {escape(door['slime'])}", soft_wrap=True)
            out.print()


def _ask(arguments: list[str], python_path: list[Path]) -> dict[str, Any]:
    """What ``python -m trainers.plugins`` answers. Plug-ins are looked for in ``python_path``, then in the current
    directory."""
    places = [str(place.resolve()) for place in python_path] + [str(Path.cwd())]
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([*places, *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "trainers.plugins", *arguments]
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"the plug-in was not loaded within {CHECK_TIMEOUT_S:.0f} s") from None
    if ended.returncode not in (0, 1) or not ended.stdout.strip():
        raise UserError(ended.stderr.strip()[-2000:] or f"the check ended with code {ended.returncode}")
    try:
        answer: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    except ValueError:
        raise UserError(f"the plug-in ended its own check: {ended.stdout.strip()[-500:]}") from None
    return answer
