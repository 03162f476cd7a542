"""Manifests of options, and a spec's options checked by them."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from controlplane.jobs.flags.manifests import Manifests, shipped
from controlplane.jobs.flags.options import option_errors
from engines.option_manifest import Manifest, describe


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(add_help=False)
    group = made.add_argument_group("sizes")
    group.add_argument("--num-layers", "--layers", type=int, dest="layers")
    group.add_argument("--rates", type=float, nargs="+", default=[0.5])
    made.add_argument("--no-fusion", action="store_false", dest="fusion")
    made.add_argument("--fast", action=argparse.BooleanOptionalAction)
    made.add_argument("--mode", choices=["a", "b"])
    made.add_argument("--extra", type=json.loads)
    made.add_argument("--hosts", nargs=2)
    return made


MANIFEST = describe(parser(), program="toy", release="1")


def test_a_parser_is_described_by_what_its_options_set_and_reads_back_the_same() -> None:
    layers = MANIFEST.by_flag("--num-layers")
    assert layers is not None
    assert (layers.dest, layers.names, layers.kind, layers.type, layers.group) == (
        "layers",
        ("layers", "num_layers"),
        "value",
        "int",
        "sizes",
    )
    fusion, fast = MANIFEST.by_name("fusion"), MANIFEST.by_flag("--no-fast")
    assert fusion is not None and (fusion.kind, fusion.default) == ("off", True)
    assert fast is not None and fast.kind == "toggle"
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert MANIFEST.nearest("layerz") == "layers"
    with pytest.raises(ValueError, match="no manifest"):
        Manifest.from_json('{"program": "x"}')


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("layers", 3, None),
        ("layers", "3", None),
        ("layers", 3.0, None),
        ("layers", None, None),
        ("layers", 3.5, "takes a whole number, not '3.5'"),
        ("layers", True, "takes a value, not true"),
        ("layers", [1], "takes one value, not [1]"),
        ("rates", [0.1, 1], None),
        ("rates", 0.1, None),
        ("rates", ["x"], "takes a number, not 'x'"),
        ("fusion", False, None),
        ("no_fusion", "yes", "takes true or false, not 'yes'"),
        ("mode", "c", "takes one of a, b, not 'c'"),
        ("extra", {"a": [1]}, None),
        ("hosts", ["a"], "takes 2 values, not 1"),
    ],
)
def test_a_value_in_a_spec_is_checked_as_the_parser_would(name: str, value: Any, problem: str | None) -> None:
    option = MANIFEST.by_name(name)
    assert option is not None
    assert option.problem(value) == problem


def spec(megatron: dict[str, Any], provider: str | None = None) -> dict[str, Any]:
    return {"trainer": {"megatron": megatron, "extra_args_provider": provider}, "engine": {"sglang": {}}}


def test_options_of_a_users_own_parser_are_left_to_the_jobs_processes() -> None:
    assert option_errors(spec({"my_option": 1}, "mine.provider"), shipped()) == ()
    (error,) = option_errors(spec({"my_option": 1}), shipped())
    assert "has no option my_option" in error.message


def test_manifests_of_an_installation_go_before_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "megatron.json").write_text(MANIFEST.to_json())
    own = Manifests.load(tmp_path)
    assert (own.megatron.program, own.sglang) == ("toy", shipped().sglang)
    (tmp_path / "sglang.json").write_text("{}")
    with pytest.raises(ValueError, match=r"sglang\.json"):
        Manifests.load(tmp_path)
