"""docs/rewards.md names every rule and every field that a job can say, and none that it cannot."""

import re
from pathlib import Path
from typing import get_args

from trainers.config import reward

TEXT = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
KINDS = [
    kind
    for kind in vars(reward).values()
    if isinstance(kind, type) and issubclass(kind, reward.Section) and "type" in kind.model_fields
]


def test_the_table_lists_the_rules_that_there_are() -> None:
    named = re.findall(r"^\| `(?!type)(\w+)` \|", TEXT.split("## What each takes care of")[0], re.MULTILINE)
    assert sorted(named) == sorted(get_args(kind.model_fields["type"].annotation)[0] for kind in KINDS)


def test_every_field_is_told_of() -> None:
    fields = {name for kind in KINDS for name in kind.model_fields if name != "type"}
    assert sorted(name for name in fields if not re.search(rf"`{name}[`:]|\"{name}\"", TEXT)) == []
