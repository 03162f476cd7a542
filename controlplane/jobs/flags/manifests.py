"""What Megatron and SGLang take, without importing either: manifests that ship with the package, or that
``rollway manifest`` wrote from what is installed."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from engines.option_manifest import Manifest

SHIPPED = Path(__file__).parent / "manifests"
PROGRAMS = {"megatron": "trainers.megatron.option_manifest", "sglang": "engines.sglang.manifest"}
"""The module that prints each program's manifest."""


@dataclass(frozen=True, slots=True)
class Manifests:
    megatron: Manifest
    sglang: Manifest

    @classmethod
    def load(cls, directory: Path | None = None) -> Self:
        """Those in ``directory``, as far as they are there, else the shipped ones. Raises ValueError, which names
        the file, for one that is damaged."""
        return cls(**{program: read_manifest(_path(directory, program)) for program in PROGRAMS})


def manifests_directory(home: Path) -> Path:
    """Where an installation keeps its own."""
    return home / "manifests"


@cache
def shipped() -> Manifests:
    return Manifests.load()


def _path(directory: Path | None, program: str) -> Path:
    own = None if directory is None else directory / f"{program}.json"
    return own if own is not None and own.is_file() else SHIPPED / f"{program}.json"


def read_manifest(path: Path) -> Manifest:
    """Raises ValueError, which names the file, for one that is damaged."""
    try:
        return Manifest.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
