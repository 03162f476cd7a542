"""Opening a large .jsonl file and reading rows of it anywhere, against plain Python that keeps every line.

    python benchmarks/data_index.py [--rows 10000000]

Prints one line of JSON: seconds to open without and with the kept index, the process's peak memory, and microseconds
for a row at the beginning and at the end.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from trainers.config import DataConfig
from trainers.rollout.data import PromptData


class Bytes:
    """A tokenizer that costs next to nothing."""

    def encode(self, text: str, /) -> list[int]:
        return list(text.encode())

    def apply_chat_template(self, conversation: list[dict[str, Any]], /, **options: Any) -> Any:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        os.environ["ROLLWAY_CACHE"] = str(Path(directory) / "cache")
        path = Path(directory) / "rows.jsonl"
        with path.open("w") as file:
            for i in range(options.rows):
                file.write(f'{{"input": "What is {i} plus {i}?", "label": "{2 * i}"}}\n')
        config = DataConfig(prompt_data=str(path), label_key="label", shuffle=True)
        cold_s = _seconds(lambda: PromptData(config, Bytes()))
        warm_s = _seconds(lambda: PromptData(config, Bytes()))
        data = PromptData(config, Bytes())
        first = _seconds(lambda: data.next_groups(1000, 1)) / 1000
        state = data.state()
        state["cursors"][0]["offset"] = options.rows - 1000
        data.load_state(state)
        last = _seconds(lambda: data.next_groups(1000, 1)) / 1000
        result = {
            "rows": options.rows,
            "bytes": path.stat().st_size,
            "open_cold_s": round(cold_s, 2),
            "open_warm_s": round(warm_s, 2),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "first_rows_us": round(first * 1e6, 1),
            "last_rows_us": round(last * 1e6, 1),
        }
        print(json.dumps(result))


def _seconds(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
