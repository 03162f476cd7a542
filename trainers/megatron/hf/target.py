"""Whose a directory is that an export is to be written to. Light: no torch."""

import json
from pathlib import Path

from trainers.errors import CheckpointInvalid

OWNER = "rollway_run.json"
"""In an exported directory: which run wrote it, and may replace it."""


def owner_text(run_id: str) -> str:
    return json.dumps({"run": run_id})


def check_target(directory: Path, run_id: str | None) -> None:
    """Raises CheckpointInvalid unless ``directory`` can be written without a loss: it is absent, empty, or an export
    that this run wrote. A user's model, or whatever else lies there, is never replaced. None: nobody's, for which no
    export is its own."""
    try:
        if not directory.is_dir():
            if directory.exists():
                raise CheckpointInvalid(f"{directory} is a file: choose another path")
            return
        if next(directory.iterdir(), None) is None:
            return
        owner = json.loads((directory / OWNER).read_text())["run"]
    except FileNotFoundError:
        raise CheckpointInvalid(
            f"{directory} already holds files that no run exported: choose another directory, or empty it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointInvalid(f"{directory} already holds files, whose owner cannot be read: {error}") from error
    if run_id is None or owner != run_id:
        raise CheckpointInvalid(
            f"{directory} already holds the export of run {owner}: choose another directory, or empty it"
        )
