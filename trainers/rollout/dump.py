"""Rollouts on disk: written as they are handed to the trainer, and read back bit for bit."""

import asyncio
import gzip
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from engines.types import Sample
from trainers.errors import DataInvalid
from trainers.rollout.protocols import RolloutContext, RolloutFunction, RolloutOutput
from trainers.rollout.samples import read, readable

VERSION = 2


def dump_path(directory: Path, rollout_id: int) -> Path:
    return directory / f"rollout_{rollout_id:07d}.jsonl.gz"


def save_rollout(directory: Path, rollout_id: int, weight_version: int, groups: Sequence[Sequence[Sample]]) -> Path:
    """Write one rollout, whole or not at all: a line that describes it, then a line per group.

    Everything comes back as it is but objects of classes beyond Python's and numpy's, which come back as their text.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = dump_path(directory, rollout_id)
    partial = path.with_suffix(".partial")
    head = {"version": VERSION, "rollout_id": rollout_id, "weight_version": weight_version, "groups": len(groups)}
    with partial.open("wb") as raw:
        with gzip.open(raw, "wt", compresslevel=1, encoding="utf-8", errors="surrogatepass") as file:
            file.write(json.dumps(head) + "\n")
            for group in groups:
                file.write(json.dumps([readable(sample) for sample in group]) + "\n")
        raw.flush()
        os.fsync(raw.fileno())
    partial.replace(path)
    return path


def load_rollout(directory: Path, rollout_id: int) -> list[list[Sample]]:
    """The groups of one rollout. Raises DataInvalid, which names the file and the line, for what is not there or not
    as :func:`save_rollout` writes it."""
    path = dump_path(directory, rollout_id)
    line = 1
    try:
        with gzip.open(path, "rt", encoding="utf-8", errors="surrogatepass") as file:
            head = json.loads(file.readline())
            if head["version"] != VERSION or head["rollout_id"] != rollout_id:
                raise DataInvalid(f"{path} is version {head['version']} of rollout {head['rollout_id']}")
            groups: list[list[Sample]] = []
            for text in file:
                line += 1
                groups.append([read(fields) for fields in json.loads(text)])
    except FileNotFoundError:
        raise _missing(directory, path.name) from None
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataInvalid(f"{path}, line {line}: not a rollout: {type(error).__name__}: {error}") from error
    if len(groups) != head["groups"]:
        raise DataInvalid(f"{path} holds {len(groups)} of its {head['groups']} groups")
    return groups


def check_rollouts(directory: Path, num_rollouts: int) -> None:
    """Whether the last of them is there, as a run that resumes needs no earlier ones than its checkpoint's. Raises
    DataInvalid."""
    last = dump_path(directory, num_rollouts - 1)
    if not last.is_file():
        raise _missing(directory, last.name)


def _missing(directory: Path, name: str) -> DataInvalid:
    there = sorted(each.name for each in directory.glob("rollout_*.jsonl.gz"))
    held = f"it holds {there[0]} to {there[-1]}" if there else "it holds no rollout"
    return DataInvalid(f"debug.load_rollouts: {directory} has no {name}: {held}")


def replay(directory: Path) -> RolloutFunction:
    """A rollout function that brings what was saved."""

    async def replayed(context: RolloutContext, rollout_id: int) -> RolloutOutput:
        groups = await asyncio.to_thread(load_rollout, directory, rollout_id)
        rewards = [sample.reward for group in groups for sample in group if sample.reward is not None]
        return RolloutOutput(groups, {"reward": statistics.fmean(rewards)} if rewards else {})

    return replayed
