"""What slime's flags become, on the terminal and as JSON."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from controlplane.jobs.flags.fields import models
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
        _item(console, "note", "yellow", remark)
    _ignored(found.report, console)
    _errors(found, console)
    _summary(found, console)


type _Row = tuple[str, str, Text]
"""Name, value, and where that comes from."""


def _spec(found: Resolution, console: Console, *, whole: bool) -> None:
    spec = found.spec.model_dump(mode="json") if whole and found.spec else found.translation.spec
    defaults = {each.field: each.flag for each in found.report.defaults}
    sections: dict[str, list[_Row]] = {}
    for path, value in _leaves(spec):
        section = next((each for each in _OF_THEIR_OWN if path.startswith(f"{each}.")), path.partition(".")[0])
        name = path.removeprefix(f"{section}.")
        title = (
            f"{section}  (must agree with config.json)" if section == _MEGATRON and name in MODEL_OPTIONS else section
        )
        if flags := _source(found.report, path):
            source = Text(" ".join(flags), style="green")
        elif path in defaults:
            source = Text(f"slime's default ({defaults[path]})", style="dim")
        elif section == "runtime" and not whole:
            source = Text("--runtime-env-json", style="green")
        else:
            source = Text("default" if whole else "follows", style="dim")
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        sections.setdefault(title, []).append((name, text, source))
    for title, rows in sections.items():
        console.rule(f"[bold]{escape(title)}[/]", align="left", style="dim")
        _rows(rows, console)
    console.print()


_MEGATRON = "trainer.megatron"
_OF_THEIR_OWN = (_MEGATRON, "engine.sglang")
_NARROW = 32
"""Longer flags have their reason on the line below."""
_ALIGNED = 24
"""Longer values do not push the flags of all others aside."""


def _rows(rows: list[_Row], console: Console) -> None:
    """Each in one line where that is wide enough; no flag is broken into two."""
    names = max(len(name) for name, _, _ in rows)
    values = max((len(value) for _, value, _ in rows if len(value) <= _ALIGNED), default=0)
    for name, value, source in rows:
        lines = textwrap.wrap(value, max(console.width - names - 2, 1), break_on_hyphens=False) or [""]
        line = Text(f"{name:<{names}}", style="cyan").append(f"  {lines[0]}", style="none")
        for more in lines[1:]:
            console.print(line, soft_wrap=True)
            line = Text(f"{'':<{names}}  {more}")
        if len(line) + 2 + len(source) > console.width:
            console.print(line, soft_wrap=True)
            line = Text(" " * max(min(names, console.width - len(source) - 2), 0))
        else:
            line.pad_right(max(min(names + 2 + values, console.width - len(source) - 2) - len(line), 0))
        console.print(line.append("  ").append_text(source), soft_wrap=True)


def _source(report: Report, path: str) -> tuple[str, ...]:
    """The flags behind a leaf: those that set it, or else the whole that it is part of."""
    flags = report.setters(path)
    while not flags and path.count(".") > 1:
        path = path.rpartition(".")[0].partition("[")[0]
        flags = report.setters(path, parts=False)
    return flags


def _leaves(spec: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All values by their paths, in the order in which a spec has them."""
    for section in JobSpec.model_fields:
        order = [name for model in models(JobSpec.model_fields[section].annotation) for name in model.model_fields]
        place = {name: at for at, name in reversed([*enumerate(order)])}
        content = spec.get(section)
        if isinstance(content, dict):
            known = cast("dict[str, Any]", content)
            content = dict(sorted(known.items(), key=lambda each: (each[0] != "name", place.get(each[0], len(place)))))
        yield from _inside(content, section)


def _inside(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict) and content:
        for name, value in cast("dict[str, Any]", content).items():
            yield from _inside(value, f"{path}.{name}")
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        for at, value in enumerate(cast("list[Any]", content)):
            yield from _inside(value, f"{path}[{at}]")
    elif content not in ({}, None):
        yield path, content


def _item(console: Console, mark: str, style: str, text: str) -> None:
    """Lines are broken at words for a reader; a program that reads them gets one."""
    if not console.is_terminal:
        console.print(f"[{style}]{mark}[/] {escape(text)}", soft_wrap=True)
        return
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_row(Text(mark, style=style), Text(text, overflow="fold"))
    console.print(table)


def _ignored(report: Report, console: Console) -> None:
    ignored = [entry for entry in report.entries if entry.outcome is Outcome.IGNORED]
    remarked = [entry for entry in report.entries if entry.outcome is Outcome.SET and entry.why]
    for title, style, entries in (("set, but not as in slime", "yellow", remarked), ("ignored", "dim", ignored)):
        if not entries:
            continue
        console.rule(f"[bold]{title}[/]", align="left", style="dim")
        width = max((len(entry.text) for entry in entries if len(entry.text) <= _NARROW), default=0)
        for entry in entries:
            line = Text(f"{entry.text:<{width}}", style=style)
            if len(line) > width:
                console.print(line, soft_wrap=True)
                line = Text(" " * width)
            for part in textwrap.wrap(entry.why, max(console.width - width - 2, 20), break_on_hyphens=False):
                console.print(line.append(f"  {part}", style="none"), soft_wrap=True)
                line = Text(" " * width)
        console.print()


def _errors(found: Resolution, console: Console) -> None:
    if not found.errors:
        return
    console.rule("[bold red]refused[/]", align="left", style="red")
    for error in found.errors:
        _item(console, "✗", "red", error.message)
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
