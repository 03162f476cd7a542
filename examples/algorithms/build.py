"""The quickstart's model and sums, and the same sums as preferences: for each the right answer and a wrong one.

``build(directory)`` writes ``model/``, ``sums.jsonl`` and ``preferences.jsonl``.
"""

import json
import sys
from pathlib import Path

from examples.quickstart import build as quickstart
from examples.quickstart.build import NUMBERS


def build(directory: Path) -> None:
    quickstart.build(directory)
    write_preferences(directory / "preferences.jsonl")


def write_preferences(path: Path) -> None:
    rows = [
        {"input": f"{a}+{b}=", "label": {"chosen": str(a + b), "rejected": str(a + b + 1)}}
        for a in NUMBERS
        for b in NUMBERS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
