"""What slime's flags become, on the terminal and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from controlplane.jobs.flags.report import Outcome, Report
from controlplane.jobs.flags.resolve import Resolution
from controlplane.jobs.spec import JobSpec
from trainers.config import MODEL_OPTIONS


def as_document(found: Resolution) -> dict[str, Any]:
    """All of it: the resolved spec, or what there is of it where something is refused."""
    spec = found.spec.model_dump(mode="json") if found.spec else None
    return {
        "spec": spec,
        "draft": None if spec is not None else found.translation.spec,
        "flags": [asdict(entry) for entry in found.report.entries],
        "slime_defaults": [asdict(each) for each in found.report.defaults],
        "remarks": list(found.report.remarks),
        "errors": [asdict(error) for error in found.errors],
    }


def show(found: Resolution, console: Console, *, whole: bool) -> None:
    _spec(found, console, whole=whole)
    for remark in found.report.remarks:
        console.print(Text(f"note  {remark}", style="yellow"))
    _ignored(found.report, console)
    _errors(found, console)
    _summary(found, console)


def _spec(found: Resolution, console: Console, *, whole: bool) -> None:
    report = found.report
    spec = found.spec.model_dump(mode="json") if whole and found.spec else found.translation.spec
    defaults = {each.field: each.flag for each in report.defaults}
    for section in (name for name in JobSpec.model_fields if name in spec):
        content = spec[section]
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title_justify="left", pad_edge=False)
        table.add_column(no_wrap=True, style="cyan")
        table.add_column(overflow="fold", ratio=3)
        table.add_column(overflow="fold", ratio=2)
        for path, value in _leaves(content, section):
            flags = _source(report, path)
            if flags:
                source = Text(" ".join(flags), style="green")
                if path.removeprefix("trainer.megatron.") in MODEL_OPTIONS:
                    source.append("  must agree with config.json", style="dim")
            elif path in defaults:
                source = Text(f"slime's default ({defaults[path]})", style="dim")
            else:
                source = Text("default" if whole else "follows", style="dim")
            table.add_row(path.removeprefix(f"{section}."), _value(value), source)
        if table.row_count:
            console.rule(f"[bold]{section}[/]", align="left", style="dim")
            console.print(table)
    console.print()


def _source(report: Report, path: str) -> tuple[str, ...]:
    """The flags behind a leaf: those that set it, or else the whole that it is part of."""
    flags = report.setters(path)
    while not flags and path.count(".") > 1:
        path = path.rpartition(".")[0]
        flags = report.setters(path, parts=False)
    return flags


def _leaves(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict) and content:
        for name, value in cast("dict[str, Any]", content).items():
            yield from _leaves(value, f"{path}.{name}")
    elif content not in ({}, None):
        yield path, content


def _value(value: Any) -> Text:
    return Text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _ignored(report: Report, console: Console) -> None:
    ignored = [entry for entry in report.entries if entry.outcome is Outcome.IGNORED]
    remarked = [entry for entry in report.entries if entry.outcome is Outcome.SET and entry.why]
    for title, style, entries in (("set, but not as in slime", "yellow", remarked), ("ignored", "dim", ignored)):
        if not entries:
            continue
        console.rule(f"[bold]{title}[/]", align="left", style="dim")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(style=style, overflow="fold", ratio=2)
        table.add_column(overflow="fold", ratio=3)
        for entry in entries:
            table.add_row(Text(entry.text), Text(entry.why))
        console.print(table)
        console.print()


def _errors(found: Resolution, console: Console) -> None:
    if not found.errors:
        return
    console.rule("[bold red]refused[/]", align="left", style="red")
    for error in found.errors:
        console.print(f"[red]✗[/] {escape(error.message)}", soft_wrap=True)
    console.print()


def _summary(found: Resolution, console: Console) -> None:
    count = {outcome: sum(entry.outcome is outcome for entry in found.report.entries) for outcome in Outcome}
    verdict = (
        f"[bold red]the job would be refused[/], for {len(found.errors)} reason{'s' * (len(found.errors) > 1)}"
        if found.errors
        else "[bold green]the job would be accepted[/]"
    )
    console.print(
        f"{sum(count.values())} flags: {count[Outcome.SET]} set, {count[Outcome.IGNORED]} ignored, "
        f"{count[Outcome.REFUSED]} refused; {verdict}"
    )
