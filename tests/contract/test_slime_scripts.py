"""The command lines of slime's published scripts, as data: nothing of them is dropped, and what they say arrives."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from controlplane.jobs.flags.command_line import read_command_line
from controlplane.jobs.flags.manifests import shipped
from controlplane.jobs.flags.report import Outcome
from controlplane.jobs.flags.resolve import Resolution, resolve

SCRIPTS = {path.stem: json.loads(path.read_text()) for path in sorted(Path(__file__).parent.glob("slime_scripts/*"))}


def words_of(script: dict[str, Any]) -> list[str]:
    return [*script["before"], *(word for line in script["argv"] for word in shlex.split(line))]


def resolved(script: dict[str, Any], *, without: frozenset[str] = frozenset()) -> Resolution:
    lines = [line for line in script["argv"] if line.split()[0] not in without]
    return resolve(words_of(script | {"argv": lines}), shipped(), files=script.get("files"))


def test_the_corpus_has_at_least_twenty_scripts_of_slimes() -> None:
    assert len(SCRIPTS) >= 20
    assert len({script["source"] for script in SCRIPTS.values()}) == len(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_of_a_script_is_accounted_for(name: str) -> None:
    script = SCRIPTS[name]
    found = resolved(script)
    given = [word.partition("=")[0] for word in read_command_line(words_of(script)).words if word.startswith("--")]
    assert [entry.flag for entry in found.report.entries] == given
    for entry in found.report.entries:
        assert entry.fields if entry.outcome is Outcome.SET else entry.why, entry
    assert sorted({entry.flag for entry in found.report.refused}) == script["refused"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_a_valid_job_once_what_is_refused_is_left_out(name: str) -> None:
    script = SCRIPTS[name]
    assert resolved(script, without=frozenset(script["refused"])).errors == ()


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_says_is_in_the_right_fields(name: str) -> None:
    script = SCRIPTS[name]
    found = resolved(script, without=frozenset(script["refused"]))
    assert found.spec is not None, found.errors
    spec = found.spec
    for path, expected in script["expect"].items():
        place: Any = spec
        for part in re.findall(r"[^.\[\]]+", path):
            place = (
                place[int(part)]
                if part.isdecimal()
                else (place[part] if isinstance(place, dict) else getattr(place, part))
            )
        assert (list(place) if isinstance(place, tuple) else place) == expected, path
