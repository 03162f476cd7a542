"""Opening a large .jsonl file, without and with what is kept of it, and reading rows of it anywhere.

    python benchmarks/data_index.py [--rows 10000000]

Prints a line of JSON for each of two processes, the second of which finds the first one's index and check: seconds to
open (and of processor time, checking processes included, as others may be busy too), the peak memory, and microseconds
for a row at the beginning of a shuffled epoch and at its end.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trainers.config import DataConfig
from trainers.rollout.data import PromptData

SETTLING_S = 3.0
"""Of a file that was written just now nothing is kept."""


class Bytes:
    """A tokenizer that costs next to nothing."""

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def apply_chat_template(self, conversation: list[dict[str, Any]], /, **options: Any) -> Any:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open is not None:
        print(json.dumps(measure(options.open)))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.jsonl"
        with path.open("w") as file:
            for i in range(options.rows):
                file.write(f'{{"input": "What is {i} plus {i}?", "label": "{2 * i}"}}\n')
        time.sleep(SETTLING_S)
        environment = os.environ | {"ROLLWAY_CACHE": str(Path(directory) / "cache")}
        for kept in (False, True):
            command = [sys.executable, __file__, "--open", str(path)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            print(json.dumps({"index_kept": kept, **json.loads(done.stdout)}), flush=True)


def measure(path: Path) -> dict[str, float]:
    before, begin = _processor_s(), time.perf_counter()
    data = PromptData(DataConfig(prompt_data=str(path), label_key="label", shuffle=True), Bytes())
    opened, used = time.perf_counter() - begin, _processor_s() - before
    first = _row_us(data)
    state = data.state()
    state["cursors"][0]["offset"] = len(data) - 1000
    data.load_state(state)
    return {
        "rows": len(data),
        "open_s": round(opened, 2),
        "open_processor_s": round(used, 2),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "first_rows_us": first,
        "last_rows_us": _row_us(data),
    }


def _row_us(data: PromptData) -> float:
    begin = time.process_time()
    data.next_groups(1000, 1)
    return round((time.process_time() - begin) * 1e3, 1)


def _processor_s() -> float:
    kinds = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in kinds)


if __name__ == "__main__":
    main()
