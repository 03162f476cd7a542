"""Every example of docs/plugins.md is a function that its door takes, and every door has one."""

import re
from pathlib import Path

import pytest

from trainers.errors import PluginInvalid
from trainers.plugins.check import check
from trainers.plugins.doors import DOORS

TEXT = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text()
EXAMPLES = re.findall(r"```python\n# door: (\w+)\n(.*?)```", TEXT, flags=re.DOTALL)


def test_every_door_has_an_example_and_stands_in_the_table() -> None:
    assert {door for door, _ in EXAMPLES} == set(DOORS)
    for door in DOORS.values():
        assert f"`{door.field}`" in TEXT, door.field


@pytest.mark.parametrize(("door", "source"), EXAMPLES, ids=[door for door, _ in EXAMPLES])
def test_the_example_fits_its_door(door: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = f"example_of_{door}"
    (tmp_path / f"{module}.py").write_text(source)
    name = re.findall(r"^(?:async def|def|class) (\w+)", source, flags=re.MULTILINE)[-1]
    assert check(f"{module}:{name}", DOORS[door]).form == "native"
    other = "rollout_function" if door != "rollout_function" else "custom_rm"
    with pytest.raises(PluginInvalid):
        check(f"{module}:{name}", DOORS[other])
