"""Reports that were written but perhaps not yet delivered: one append-only file per attempt."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from trainers.errors import StorageFailed
from trainers.reports import (
    CheckpointDeletedReport,
    CheckpointReport,
    EvaluationReport,
    EventReport,
    Origin,
    Report,
    StepReport,
)

type Fact = StepReport | CheckpointReport | CheckpointDeletedReport | EvaluationReport | EventReport
"""What stays true when the attempt that reported it is gone."""

_REPORT: TypeAdapter[Report] = TypeAdapter(Report)
_ALL = 2**31


class Spool:
    """``directory/attempt-N.jsonl`` holds the reports of attempt N, ``attempt-N.acked`` what the API confirmed.

    A report is on disk before it is sent, so a driver that dies while the API is away loses none: the next
    attempt delivers what :meth:`left_behind` finds.
    """

    def __init__(self, directory: Path, attempt: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._attempt = attempt
        path = self._path_of(attempt)
        if path.exists():  # a line that was cut off would run on into the next
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = path.open("ab")

    def append(self, report: Report, *, durable: bool) -> None:
        """Write one report; ``durable`` waits for the disk. Raises OSError (a full disk, say)."""
        self._file.write(report.model_dump_json().encode() + b"\n")
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())

    def begun(self) -> list[Report]:
        """What this very attempt reported before: its driver died, and was started again by an API that was killed
        before it could note that it had started it."""
        return list(self._reports(self._attempt))

    @property
    def acked(self) -> int:
        """Up to where the API is known to have what this attempt reported."""
        return self._acked(self._attempt)

    def ack(self, seq: int) -> None:
        self._ack(self._attempt, seq)

    def _ack(self, attempt: int, seq: int) -> None:
        path = self._acked_path_of(attempt)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(str(seq))
        temporary.replace(path)

    def facts(self) -> Iterator[Fact]:
        """What this attempt and those before it reported, delivered or not; oldest first. Raises StorageFailed, like
        :meth:`left_behind`, for a file that was damaged."""
        for attempt in range(1, self._attempt + 1):
            yield from self._facts(attempt)

    def left_behind(self) -> list[Fact]:
        """Facts that earlier attempts reported and of which no confirmation was noted, oldest first, each with its
        origin: the API may have them. Once they are in this attempt's file, call :meth:`taken_over`; an attempt that
        dies before it does leaves them to the next."""
        found: dict[Origin, Fact] = {}
        for attempt in range(1, self._attempt):
            acked = self._acked(attempt)
            for fact in self._facts(attempt):
                if fact.seq > acked:
                    origin = fact.origin or Origin(attempt=attempt, seq=fact.seq)
                    # In two files when an attempt died while it took it over.
                    found.setdefault(origin, fact.model_copy(update={"origin": origin}))
        return list(found.values())

    def _facts(self, attempt: int) -> Iterator[Fact]:
        for report in self._reports(attempt):
            if isinstance(
                report, StepReport | CheckpointReport | CheckpointDeletedReport | EvaluationReport | EventReport
            ):
                yield report

    def _reports(self, attempt: int) -> Iterator[Report]:
        path = self._path_of(attempt)
        if not path.exists():
            return
        # A line that was cut off by the crash has no newline: it was never acknowledged to anyone.
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            try:
                yield _REPORT.validate_json(line)
            except ValidationError as error:
                raise StorageFailed(f"line {number} of {path} is no report any more: {line[:100]!r}") from error

    def taken_over(self) -> None:
        """The attempts after this one need not look at those before it."""
        for attempt in range(1, self._attempt):
            if self._path_of(attempt).exists():
                self._ack(attempt, _ALL)

    def _acked(self, attempt: int) -> int:
        """0 where nothing was confirmed, or what was is lost: a second delivery, which the API recognises."""
        path = self._acked_path_of(attempt)
        said = path.read_text() if path.exists() else ""
        return int(said) if said.isdecimal() else 0

    def _path_of(self, attempt: int) -> Path:
        return self._directory / f"attempt-{attempt}.jsonl"

    def _acked_path_of(self, attempt: int) -> Path:
        return self._directory / f"attempt-{attempt}.acked"

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of what a full disk did not take; whoever appended it was told
            self._file.close()
