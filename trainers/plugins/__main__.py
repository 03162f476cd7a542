"""``python -m trainers.plugins list | check PATH [--door NAME]``: what doors there are, and whether a plug-in fits.

Prints one JSON object. Exit code 0: it fits; 1: it does not; 2: the command itself is wrong.
"""

import argparse
import difflib
import json
import sys
from typing import Any

from trainers.errors import PluginInvalid
from trainers.plugins.check import Checked, check, fits
from trainers.plugins.doors import DOORS, Door


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainers.plugins", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    checking = commands.add_parser("check")
    checking.add_argument("path")
    checking.add_argument("--door")
    told = parser.parse_args(argv)
    if told.command == "list":
        return _say({"doors": [_door(door) for door in DOORS.values()]})
    if told.door is not None and told.door not in DOORS:
        near = difflib.get_close_matches(told.door, DOORS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(DOORS)}"
        return _say({"path": told.path, "error": f"there is no door {told.door!r}; {hint}"})
    try:
        found = [check(told.path, DOORS[told.door])] if told.door else fits(told.path)
    except PluginInvalid as error:
        return _say({"path": told.path, "error": str(error)})
    if not found:
        return _say({"path": told.path, "error": f"{told.path} fits no door: name the one it is meant for"})
    return _say({"path": told.path, "fits": [_fit(each) for each in found]})


def _door(door: Door) -> dict[str, Any]:
    return {
        "name": door.name,
        "field": door.field,
        "flag": door.flag,
        "summary": door.summary,
        "native": str(door.native),
        "slime": None if door.slime is None else str(door.slime),
    }


def _fit(checked: Checked) -> dict[str, Any]:
    return {
        "door": checked.door.name,
        "field": checked.door.field,
        "form": checked.form,
        "called_as": str(checked.called_as),
    }


def _say(answer: dict[str, Any]) -> int:
    # The user's module may print when it is imported: the answer is the last line.
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
