"""slime's command line: submit it, or say what would become of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from controlplane.cli.console import UserError, err, out, plain_errors

if TYPE_CHECKING:
    from controlplane.jobs.flags.resolve import Resolution

PASSED_ON = {"ignore_unknown_options": True}
MANIFEST_TIMEOUT_S = 600.0
"""Megatron and SGLang import for as long as a busy machine takes."""
_FILE_FLAGS = ("--eval-config", "--custom-config-path")

Flags = Annotated[
    list[str] | None, typer.Argument(metavar="-- FLAGS", help="slime's flags, or a whole 'python3 train.py …'.")
]
ArgvFile = Annotated[
    Path | None,
    typer.Option("--argv-file", metavar="FILE", help="Read flags from a launch script or a file; - is stdin."),
]


def train(
    flags: Flags = None,
    argv_file: ArgvFile = None,
    name: Annotated[str | None, typer.Option("--job-name", help="The job's name.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Only submit; print the job's id.")] = False,
    key: Annotated[str | None, typer.Option("--idempotency-key", help="Submit at most once under this key.")] = None,
) -> None:
    """Submit a job by slime's flags, and follow it. In a launch script, put 'rollway train --' in the place of
    'ray job submit … -- python3 train.py'."""
    from controlplane.cli.follow import ending, follow
    from controlplane.sdk import Rollway

    with plain_errors():
        words = _words(flags, argv_file)
        with Rollway() as rollway:
            job = rollway.submit_argv(words, files=_files(words), name=name, idempotency_key=key)
            for notice in job.notices:
                out.print(f"[yellow]note[/] {escape(notice)}", soft_wrap=True)
            out.print(job.id if detach else f"submitted [bold]{job.id}[/]")
            if detach:
                return
            ended = follow(rollway, job.id, out)
            out.print(ending(ended))
            if not ended.succeeded:
                raise typer.Exit(1)


def explain(
    flags: Flags = None,
    argv_file: ArgvFile = None,
    whole: Annotated[bool, typer.Option("--whole", help="Show all of the spec, defaults too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print spec, outcomes and errors as JSON.")] = False,
) -> None:
    """Say what slime's flags become: the spec, which flag set what, what is ignored and why, what is refused. Submits
    nothing. Exit code 1 if the job would be refused."""
    from controlplane.cli.explained import as_document, show
    from controlplane.jobs.flags.manifests import Manifests, manifests_directory
    from controlplane.jobs.flags.resolve import resolve
    from controlplane.settings import Settings

    with plain_errors():
        words = _words(flags, argv_file)
        home = Settings.from_environment().home
        found: Resolution = resolve(words, Manifests.load(manifests_directory(home)), files=_files(words))
        if as_json:
            typer.echo(json.dumps(as_document(found), indent=2))
        else:
            show(found, out, whole=whole)
        if found.errors:
            raise typer.Exit(1)


def manifest(
    python_path: Annotated[
        list[Path] | None, typer.Option("--python-path", help="Where a Megatron-LM of your own is.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", help="The directory to write to; unset: this installation's.")
    ] = None,
) -> None:
    """Write down the options of the Megatron and SGLang that are installed, for the API to check jobs by; it reads
    them when it starts."""
    from controlplane.jobs.flags.manifests import PROGRAMS, manifests_directory, shipped
    from controlplane.settings import Settings
    from engines.option_manifest import Manifest

    with plain_errors():
        directory = into or manifests_directory(Settings.from_environment().home)
        directory.mkdir(parents=True, exist_ok=True)
        for program, module in PROGRAMS.items():
            with out.status(f"asking {program}"):
                found = Manifest.from_json(_ask(module, python_path or []))
            path = directory / f"{program}.json"
            path.write_text(found.to_json())
            known: Manifest = getattr(shipped(), program)
            more, fewer = set(found.flags) - set(known.flags), set(known.flags) - set(found.flags)
            out.print(
                f"[bold]{program}[/] {found.release}: {len(found.options)} options, {len(more)} flags more and "
                f"{len(fewer)} fewer than in {known.release}\n  {path}",
                soft_wrap=True,
            )


def _words(flags: list[str] | None, argv_file: Path | None) -> list[str]:
    from controlplane.jobs.flags.script import script_words

    if argv_file is None:
        if not flags:
            raise UserError("no flags: write them behind --, or name a file with --argv-file")
        return flags
    try:
        text = sys.stdin.read() if str(argv_file) == "-" else argv_file.read_text()
    except OSError as error:
        raise UserError(f"{argv_file}: {error.strerror}") from None
    where = "" if str(argv_file) == "-" else str(argv_file.resolve().parent)
    try:
        return script_words(text, directory=where, read_file=_sourced, environment=os.environ) + (flags or [])
    except ValueError as error:
        raise UserError(f"{argv_file}: {error}") from None


def _sourced(path: str) -> str | None:
    text = _text(path)
    if text is None:
        err.print(f"[yellow]note[/] the script sources {escape(path)}, which cannot be read", soft_wrap=True)
    return text


def _files(words: list[str]) -> dict[str, str]:
    """The text of the files that flags name, as far as they are on this machine."""
    found: dict[str, str] = {}
    for at, word in enumerate(words):
        flag, assigned, value = word.partition("=")
        path = value if assigned else words[at + 1] if at + 1 < len(words) else ""
        if flag in _FILE_FLAGS and path and (text := _text(path)) is not None:
            found[path] = text
    return found


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None


def _ask(module: str, python_path: list[Path]) -> str:
    environment: dict[str, Any] = dict(os.environ)
    places = [str(place.resolve()) for place in python_path]
    environment["PYTHONPATH"] = os.pathsep.join([*places, *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-m", module]
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MANIFEST_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"{module} did not answer within {MANIFEST_TIMEOUT_S:.0f} s") from None
    if ended.returncode:
        raise UserError(ended.stderr.strip()[-2000:] or f"{module} ended with code {ended.returncode}")
    return ended.stdout[ended.stdout.index("{") :]
