"""The table of slime's flags: whole, true to the spec, and the same as its documentation."""

from pathlib import Path

import pytest

from controlplane.jobs.flags.document import document
from controlplane.jobs.flags.fields import UNSET, default_of, exists
from controlplane.jobs.flags.flag import Kind
from controlplane.jobs.flags.manifests import SHIPPED, read_manifest
from controlplane.jobs.flags.table import GROUPS, TABLE
from controlplane.jobs.spec import JobSpec
from engines.config import OWNED_SGLANG_OPTIONS
from trainers.config import OWNED_MEGATRON_OPTIONS
from trainers.plugins.doors import DOORS

DOCUMENT = Path(__file__).parents[2] / "docs" / "slime-flags.md"


def test_the_document_is_the_tables() -> None:
    assert DOCUMENT.read_text() == document(), "python -m controlplane.jobs.flags.document > docs/slime-flags.md"


def test_no_flag_is_in_the_table_twice() -> None:
    assert len(TABLE) == sum(len(flags) for flags in GROUPS.values())


@pytest.mark.parametrize("flag", TABLE.values(), ids=lambda flag: flag.name)
def test_a_flag_names_fields_that_exist_or_says_why_it_has_none(flag) -> None:
    for field in flag.fields:
        assert exists(field), field
    if flag.kind in (Kind.SAME, Kind.RENAMED):
        assert len(flag.fields) == 1 and not flag.why
    else:
        assert flag.why
    if flag.kind is Kind.SAME:
        assert flag.fields[0].endswith(flag.name[2:].replace("-", "_"))
    if flag.kind in (Kind.IGNORED, Kind.REFUSED):
        assert not flag.fields


def test_every_option_of_the_router_is_a_flag() -> None:
    options = read_manifest(SHIPPED / "router.json").options
    assert {flag for option in options for flag in option.flags} <= set(TABLE)
    assert not [flag.name for flag in GROUPS["Options of the router"] if flag.why == "not supported"]


def test_every_field_that_an_owned_option_points_to_exists() -> None:
    for field in {*OWNED_MEGATRON_OPTIONS.values(), *OWNED_SGLANG_OPTIONS.values()}:
        assert field.startswith("(") or exists(field), field


@pytest.mark.parametrize("door", DOORS.values(), ids=lambda door: door.name)
def test_every_door_is_reached_by_the_flag_that_it_names(door) -> None:
    flag = door.flag.split()[0]
    assert door.field in TABLE[flag].fields


def test_fields_are_found_by_their_paths_and_so_are_their_defaults() -> None:
    assert exists("algorithm.critic.lr") and exists("engine.sglang.anything") and exists("rollout.reward.url")
    assert not exists("rollout.nothing") and not exists("algorithm.kl.nothing") and not exists("nothing.at.all")
    assert default_of("trainer.lr") == JobSpec.model_fields["trainer"].default.lr
    assert default_of("model.hf_checkpoint") is UNSET
