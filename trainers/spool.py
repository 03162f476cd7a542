"""Reports that were written but perhaps not yet delivered: one append-only file per attempt."""

import os
from pathlib import Path

from pydantic import TypeAdapter

from trainers.reports import CheckpointReport, EventReport, Report, StepReport

_REPORT: TypeAdapter[Report] = TypeAdapter(Report)


class Spool:
    """``directory/attempt-N.jsonl`` holds the reports of attempt N, ``attempt-N.acked`` what the API confirmed.

    A report is on disk before it is sent, so a driver that dies while the API is away loses none: the next
    attempt delivers what :meth:`left_behind` finds.
    """

    def __init__(self, directory: Path, attempt: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._attempt = attempt
        self._acked_path = directory / f"attempt-{attempt}.acked"
        self._file = (directory / f"attempt-{attempt}.jsonl").open("ab")

    def append(self, report: Report, *, durable: bool) -> None:
        """Write one report; ``durable`` waits for the disk. Raises OSError (a full disk, say)."""
        self._file.write(report.model_dump_json().encode() + b"\n")
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())

    def ack(self, seq: int) -> None:
        temporary = self._acked_path.with_suffix(".tmp")
        temporary.write_text(str(seq))
        temporary.replace(self._acked_path)

    def left_behind(self) -> list[StepReport | CheckpointReport | EventReport]:
        """Facts that earlier attempts reported and the API never confirmed, oldest first."""
        found: list[StepReport | CheckpointReport | EventReport] = []
        for attempt in range(1, self._attempt):
            path = self._directory / f"attempt-{attempt}.jsonl"
            acked_path = self._directory / f"attempt-{attempt}.acked"
            if not path.exists():
                continue
            acked = int(acked_path.read_text()) if acked_path.exists() else 0
            # A line that was cut off by the crash has no newline: it was never acknowledged to anyone.
            for line in path.read_bytes().split(b"\n")[:-1]:
                report = _REPORT.validate_json(line)
                if report.seq > acked and isinstance(report, StepReport | CheckpointReport | EventReport):
                    found.append(report)
            acked_path.write_text(str(2**31))  # handed over: the attempt after this one need not look again
        return found

    def close(self) -> None:
        self._file.close()
