"""A process that answers one line with one line, and is replaced when it takes too long."""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START_S = 60.0
"""A new process may take this long to import what it needs, beyond the deadline of the first question."""
_MAX_LINE = 1 << 20


class Helper:
    """Not for use by two threads at once. The process reads its standard input to the end, and so ends with this
    one; it is started by the first question."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        preface: bytes = b"",
    ) -> None:
        self._argv = list(argv)
        self._env = env
        self._cwd = cwd
        self._preface = preface
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = False

    def ask(self, line: bytes, deadline_s: float) -> bytes | None:
        """The answer to ``line``, without its line end. None when the process ended, or was ended because the
        deadline passed."""
        process = self._running()
        limit = time.monotonic() + deadline_s + (0.0 if self._begun else START_S)
        answer = self._exchange(process, line, limit)
        self._begun = answer is not None
        if answer is None:
            self.close()
        return answer

    def close(self) -> None:
        """End the process, at once."""
        process, self._process = self._process, None
        self._begun = False
        if process is None:
            return
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.communicate()

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes, limit: float) -> bytes | None:
        """Write and read at once, so that a process which does not read cannot block this one."""
        assert process.stdin is not None
        assert process.stdout is not None
        rest, answer = memoryview(line + b"\n"), bytearray()
        reading, writing = process.stdout.fileno(), process.stdin.fileno()
        while not answer.endswith(b"\n"):
            remaining = limit - time.monotonic()
            if remaining <= 0 or len(answer) > _MAX_LINE:
                return None
            readable, writable, _ = select.select([reading], [writing] if rest else [], [], remaining)
            if writable:
                try:
                    rest = rest[os.write(writing, rest) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    return None
            if readable:
                data = os.read(reading, 1 << 16)
                if not data:
                    return None
                answer += data
        return bytes(answer[:-1])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=None if self._env is None else dict(self._env),
                cwd=self._cwd,
                start_new_session=True,
            )
            assert process.stdin is not None
            os.set_blocking(process.stdin.fileno(), False)
            if self._preface:
                assert len(self._preface) <= 1 << 16  # a pipe's capacity: written at once
                os.write(process.stdin.fileno(), self._preface)
        return self._process
