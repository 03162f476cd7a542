"""Whether each row of a large data set is what it should be: found out once, by as many processes as there are
processors, and kept.

    python -m trainers.rollout.data.check    reads one task as JSON and prints what is wrong
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from trainers.config.data import DataSetConfig
from trainers.errors import DataInvalid, RunError
from trainers.rollout.data.cache import keep_json, kept_json, key_of
from trainers.rollout.data.reader import RowReader
from trainers.rollout.data.rows import Rows, open_rows

ROWS_PER_PROCESS = 250_000
"""With fewer, starting a process costs more than it brings."""
_MAX_PROCESSES = 32
_START_S, _ROW_S = 120.0, 0.001


def check_rows(rows: Rows, data_set: DataSetConfig, *, messages: bool) -> None:
    """Raises DataInvalid, which names the place of the first wrong row; RunError when that cannot be found out."""
    reader = RowReader(data_set, messages=messages)
    name = f"{key_of(rows.identity, reader.key)}.checked.json"
    if kept_json(name) is not None:
        return
    count = min(len(os.sched_getaffinity(0)), _MAX_PROCESSES, len(rows) // ROWS_PER_PROCESS)
    if count > 1:
        wrong = _in_processes(len(rows), data_set, messages, count)
    else:
        wrong = _first_wrong(rows, reader, 0, len(rows))
    if wrong is not None:
        raise DataInvalid(wrong)
    keep_json(name, {"rows": len(rows)})


def _first_wrong(rows: Rows, reader: RowReader, start: int, stop: int) -> str | None:
    number = start

    def where() -> str:
        return rows.where(number)

    try:
        for content in rows.scan(start, stop):
            reader.row(content, where)
            number += 1
    except DataInvalid as error:
        return str(error)
    return None


def _in_processes(num_rows: int, data_set: DataSetConfig, messages: bool, count: int) -> str | None:
    """What the first process that finds a wrong row says."""
    bounds = [num_rows * i // count for i in range(count + 1)]
    tasks = [
        {"data_set": data_set.model_dump(), "messages": messages, "start": start, "stop": stop}
        for start, stop in pairwise(bounds)
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "trainers.rollout.data.check"]
    with ExitStack() as open_processes:
        running: list[subprocess.Popen[bytes]] = []
        for task in tasks:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
            )
            open_processes.enter_context(process)
            open_processes.callback(process.kill)  # comes first, and does nothing to one that has ended
            running.append(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps(task).encode())
            process.stdin.close()
            process.stdin = None
        return _first_answer(running, _START_S + _ROW_S * num_rows / count)


def _first_answer(running: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> str | None:
    for process in running:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise RunError(f"the rows of data.prompt_data could not be checked within {timeout_s:.0f} s") from None
        if process.returncode:
            said = err.decode(errors="replace").strip()[-500:]
            raise RunError(f"checking the rows of data.prompt_data ended with status {process.returncode}: {said}")
        if (wrong := json.loads(out)["wrong"]) is not None:
            return wrong
    return None


def _task(told: dict[str, Any]) -> str | None:
    data_set = DataSetConfig.model_validate(told["data_set"])
    reader = RowReader(data_set, messages=told["messages"])
    return _first_wrong(open_rows(data_set.paths), reader, told["start"], told["stop"])


if __name__ == "__main__":
    print(json.dumps({"wrong": _task(json.load(sys.stdin))}))
