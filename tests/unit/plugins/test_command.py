"""``rollway plugins``, as a user runs it."""

import json

import pytest
from typer.testing import CliRunner

from controlplane.cli.main import app
from tests.unit.plugins.test_check import USERS


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([f"{USERS}:generate"], 0, "fits custom_generate_function in Rollway's form"),
        ([f"{USERS}:short", "--door", "custom_generate_function"], 1, "too many positional arguments"),
        (["nowhere:f", "--python-path", "."], 1, "there is no module 'nowhere'"),
        ([f"{USERS}:generate", "--door", "window"], 1, "there is no door 'window'"),
    ],
)
def test_a_check_says_what_it_found_and_exits_accordingly(arguments: list[str], code: int, text: str) -> None:
    ended = CliRunner().invoke(app, ["plugins", "check", *arguments])
    assert ended.exit_code == code
    assert text in " ".join(ended.output.split())


def test_the_doors_are_listed_as_json_too() -> None:
    ended = CliRunner().invoke(app, ["plugins", "list", "--json"])
    assert {"name", "field", "flag", "native", "slime"} <= set(json.loads(ended.output)[0])
