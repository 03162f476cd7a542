"""How a checkpoint comes into force: written beside its place, then renamed, then named by the tracker."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from trainers.errors import CheckpointInvalid
from trainers.megatron.manifest import MANIFEST, FileEntry, Manifest, digest, expendable, files_of, read_manifest
from trainers.megatron.start import EXTRA_STATE, OWNER, TRACKER, iteration_name, read_owner
from trainers.megatron.storage import on_rank_zero, raise_together, sync, write_durably


@dataclass(frozen=True, slots=True)
class Keeper:
    """Whose checkpoints these are, and which of them stay."""

    run_id: str
    keep_last: int | None = None
    keep_every: int | None = None
    succeeds: str | None = None
    """The run whose checkpoints it was told to go on with."""


@dataclass(frozen=True, slots=True)
class Staging:
    """Where one rollout's checkpoint is written until it is whole."""

    directory: Path
    """Of the run's checkpoints."""
    rollout_id: int
    keeper: Keeper

    @property
    def path(self) -> Path:
        return self.directory / f".saving-{self.rollout_id}"

    @property
    def written(self) -> Path:
        """The checkpoint itself."""
        return self.path / iteration_name(self.rollout_id)

    @property
    def target(self) -> Path:
        return self.directory / iteration_name(self.rollout_id)

    def prepare(self) -> None:
        """A collective; removes what an interrupted save left behind. Raises StorageFailed, like :meth:`publish`, and
        CheckpointInvalid where another run has begun to save."""
        on_rank_zero(self.directory, self._prepare)

    def publish(self, extra_state: str, known: Sequence[FileEntry] = ()) -> None:
        """Once all ranks have written: add the extra state and the manifest, put the checkpoint in force and let go of
        what need not be kept. ``known``: the digests that this rank has already. A collective."""
        on_rank_zero(self.directory, lambda: write_durably(self.written / EXTRA_STATE, extra_state))
        manifest = Manifest(self.keeper.run_id, self.rollout_id, tuple(self._digests(known)))
        on_rank_zero(self.directory, lambda: self._publish(manifest))

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        keeper, owner = self.keeper, read_owner(self.directory)
        if owner not in (None, keeper.run_id, keeper.succeeds):
            raise CheckpointInvalid(
                f"checkpoint.save: run {owner} saves to {self.directory} too, since after this run began: give each "
                "run a directory of its own"
            )
        if owner != keeper.run_id:
            write_durably(self.directory / OWNER, json.dumps({"run": keeper.run_id}))
        for left_behind in self.directory.glob(".saving-*"):
            shutil.rmtree(left_behind)
        self.path.mkdir()

    def _digests(self, known: Sequence[FileEntry]) -> list[FileEntry]:
        """Of all files, each rank reading its share of those that nobody knows yet."""
        known = _of_all_ranks(known)
        missing = sorted(set(files_of(self.written)) - {entry.path for entry in known})
        failure: OSError | None = None
        mine: list[FileEntry] = []
        try:
            mine = digest(self.written, missing[dist.get_rank() :: dist.get_world_size()])
        except OSError as error:
            failure = error
        raise_together(self.directory, failure)
        return sorted([*known, *_of_all_ranks(mine)], key=lambda entry: entry.path)

    def _publish(self, manifest: Manifest) -> None:
        directory, target = self.directory, self.target
        write_durably(self.written / MANIFEST, manifest.to_json())
        if target.exists():  # this run's, saved before its tracker was lost: a start finds room for the rest
            target.rename(self.path / f"{target.name}.old")
        self.written.rename(target)
        sync(directory)
        write_durably(directory / TRACKER, str(self.rollout_id))
        sync(directory)
        shutil.rmtree(self.path)
        self._let_go()

    def _let_go(self) -> None:
        keeper, directory = self.keeper, self.directory
        if keeper.keep_last is None:
            return
        own = [found.rollout for path in directory.glob("iter_*") if (found := _own(path, keeper.run_id)) is not None]
        for rollout in expendable(own, keep_last=keeper.keep_last, keep_every=keeper.keep_every):
            if rollout != self.rollout_id:
                # Renamed first: a deletion that is cut short leaves nothing that looks like a checkpoint.
                doomed = directory / f".saving-{rollout}"
                (directory / iteration_name(rollout)).rename(doomed)
                shutil.rmtree(doomed)


def _own(path: Path, run_id: str) -> Manifest | None:
    try:
        found = read_manifest(path)
    except CheckpointInvalid:  # nobody's to delete
        return None
    return found if found is not None and found.run == run_id else None


def _of_all_ranks(mine: Sequence[FileEntry]) -> list[FileEntry]:
    everyone: list[list[FileEntry]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, list(mine))
    return [entry for entries in everyone for entry in entries]
