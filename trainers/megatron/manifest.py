"""What a checkpoint consists of, so that a damaged or half-copied one is recognised. No collectives, no torch."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers.errors import CheckpointInvalid

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class FileEntry:
    path: str
    """Relative to the checkpoint."""
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    run: str
    rollout: int
    files: tuple[FileEntry, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def files_of(checkpoint: Path) -> list[str]:
    """Every file of a checkpoint but its manifest, in a fixed order."""
    return sorted(
        str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST
    )


def digest(checkpoint: Path, names: Iterable[str]) -> list[FileEntry]:
    """Read these files once."""
    entries: list[FileEntry] = []
    for name in names:
        with (checkpoint / name).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            entries.append(FileEntry(name, file.tell(), sha256))
    return entries


def read_manifest(checkpoint: Path) -> Manifest | None:
    """None for a checkpoint that another program wrote. Raises CheckpointInvalid for a damaged manifest."""
    try:
        content: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text())
        files = tuple(FileEntry(**entry) for entry in content["files"])
        return Manifest(str(content["run"]), int(content["rollout"]), files)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointInvalid(f"{checkpoint / MANIFEST} is damaged: {error}") from error


def damage(checkpoint: Path, entries: Sequence[FileEntry]) -> str | None:
    """What is wrong with the first of these files that is not what was saved; None if all are."""
    for entry in entries:
        path = checkpoint / entry.path
        try:
            size = path.stat().st_size
            if size != entry.size:
                return f"{path} has {size} bytes, not the {entry.size} that were saved"
            if digest(checkpoint, [entry.path])[0].sha256 != entry.sha256:
                return f"{path} is not what was saved: its SHA-256 differs"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
    return None


def expendable(rollouts: Iterable[int], *, keep_last: int | None, keep_every: int | None) -> list[int]:
    """Which of a run's saved rollouts may go: all but the newest ``keep_last`` and those after which a multiple of
    ``keep_every`` rollouts was done, which is how ``save_interval`` counts; none when ``keep_last`` is None."""
    if keep_last is None:
        return []
    older = sorted(rollouts)[:-keep_last]
    return [rollout for rollout in older if keep_every is None or (rollout + 1) % keep_every]
