"""The same rows from any format, parts and mixtures of them, an index that is built once, and resumption anywhere."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.types import FinishReason, Generation, Sample
from tests.unit.rollout.test_data import Characters
from trainers.config import DataConfig
from trainers.errors import DataInvalid
from trainers.rollout.buffer import Buffer
from trainers.rollout.data import PromptData
from trainers.rollout.data.lines import LineIndex, cache_directory, find_lines
from trainers.rollout.data.order import next_of
from trainers.rollout.data.rows import open_rows

ROWS = [{"input": f"p{i}", "label": str(i), "metadata": {"n": i}} for i in range(10)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLWAY_CACHE", str(tmp_path / "cache"))


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def saved(directory: Path, rows: list[dict[str, Any]]) -> Path:
    """As ``datasets.Dataset.save_to_disk`` lays it out, in two files."""
    directory.mkdir()
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (rows[:4], rows[4:]), strict=True):
        table = pa.Table.from_pylist(part)
        with pa.OSFile(str(directory / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    (directory / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return directory


def opened(prompt_data: Any, **changes: Any) -> PromptData:
    told = {"prompt_data": prompt_data, "label_key": "label", **changes}
    return PromptData(DataConfig.model_validate(told), Characters())


def prompts(groups: list[list[Sample]]) -> list[Any]:
    return [group[0].prompt for group in groups]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "saved"])
def test_every_format_gives_the_same_samples(kind: str, tmp_path: Path) -> None:
    expected = opened(str(lines(tmp_path / "rows.jsonl", ROWS))).next_groups(10, 2)
    if kind == "json":
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        path = tmp_path / "rows.parquet"
        parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3)
    else:
        path = saved(tmp_path / "rows", ROWS) if kind == "saved" else tmp_path / "rows.jsonl"
    data = opened(str(path))
    assert data.next_groups(10, 2) == expected
    backwards = open_rows([str(path)])
    assert [backwards.read(i) for i in reversed(range(10))] == ROWS[::-1]


def test_the_datasets_library_writes_what_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "set"))
    assert prompts(opened(str(tmp_path / "set")).next_groups(10, 1)) == [row["input"] for row in ROWS]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "dict"))
    with pytest.raises(DataInvalid, match="several splits: take one of train"):
        opened(str(tmp_path / "dict"))


@pytest.mark.parametrize(
    ("part", "numbers"), [("[2:5]", range(2, 5)), ("[:3]", range(3)), ("[-2:]", range(8, 10)), ("[7:99]", range(7, 10))]
)
def test_a_part_of_the_rows_is_taken_as_python_would(part: str, numbers: range, tmp_path: Path) -> None:
    data = opened(f"{lines(tmp_path / 'rows.jsonl', ROWS)}@{part}")
    assert prompts(data.next_groups(len(data), 1)) == [f"p{i}" for i in numbers]


def test_several_files_are_one_data_set_shuffled_together(tmp_path: Path) -> None:
    first, second = lines(tmp_path / "a.jsonl", ROWS[:6]), lines(tmp_path / "b.jsonl", ROWS[6:])
    data = opened([str(first), str(second)], shuffle=True)
    epoch = prompts(data.next_groups(10, 1))
    assert sorted(epoch) == [f"p{i}" for i in range(10)]
    assert set(epoch[:6]) != {f"p{i}" for i in range(6)}


def test_a_wrong_row_is_named_by_its_own_file_and_place(tmp_path: Path) -> None:
    good, bad = lines(tmp_path / "a.jsonl", ROWS[:3]), lines(tmp_path / "b.jsonl", [*ROWS[3:5], {"input": "p"}])
    with pytest.raises(DataInvalid, match=r"b\.jsonl line 3: no key 'label'"):
        opened([str(good), f"{bad}@[1:]"])
    table = tmp_path / "c.parquet"
    parquet.write_table(pa.Table.from_pylist([{"input": 3, "label": "x"}]), table)
    with pytest.raises(DataInvalid, match=r"c\.parquet row 1: 'input' .* is a JSON number"):
        opened(str(table))
    (tmp_path / "d.parquet").write_text("no")
    with pytest.raises(DataInvalid, match=r"d\.parquet is no parquet file"):
        opened(str(tmp_path / "d.parquet"))
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(DataInvalid, match=r"e\.json is a JSON object, expected an array"):
        opened(str(tmp_path / "e.json"))
    with pytest.raises(DataInvalid, match=r"no state\.json"):
        opened(str(tmp_path))


@settings(deadline=None)
@given(weights=st.lists(st.floats(0.05, 20), min_size=1, max_size=5), count=st.integers(1, 300))
def test_a_mixture_keeps_its_proportions_at_every_moment(weights: list[float], count: int) -> None:
    drawn = [0] * len(weights)
    for number in range(1, count + 1):
        drawn[next_of(weights, drawn)] += 1
        for weight, seen in zip(weights, drawn, strict=True):
            assert abs(seen - number * weight / sum(weights)) < len(weights)


def test_a_mixture_draws_each_set_in_its_own_order_and_epochs(tmp_path: Path) -> None:
    large = lines(tmp_path / "large.jsonl", ROWS)
    small = lines(tmp_path / "small.jsonl", [{"input": f"s{i}", "label": "x"} for i in range(2)])
    mixture = [{"path": str(large), "weight": 3}, {"path": str(small), "weight": 1}]
    drawn = prompts(opened(mixture).next_groups(40, 1))
    assert Counter(each[0] for each in drawn) == {"p": 30, "s": 10}
    assert [each for each in drawn if each[0] == "p"] == [f"p{i}" for i in range(10)] * 3
    assert [each for each in drawn if each[0] == "s"] == ["s0", "s1"] * 5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_runs_killed_at_twenty_random_points_see_the_same_samples_in_the_same_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = random.Random(seed)
    directory = tmp_path_factory.mktemp("data")
    mixture = [
        {"path": str(lines(directory / "a.jsonl", ROWS)), "weight": 2.5},
        {"path": str(lines(directory / "b.jsonl", ROWS[:3])), "weight": 1},
    ]

    def begin() -> Buffer:
        return Buffer(opened(mixture, shuffle=True, seed=seed % 1000))

    def rollout(data: Buffer, number: int) -> list[list[Sample]]:
        """Five groups, of which what a fixed rule picks goes back, with tokens, for a later one."""
        groups = data.next_groups(5, 2)
        back = [group for group in groups if (group[0].group_index * 7 + number) % 5 == 0]
        for group in back:
            for sample in group:
                sample.metadata["carried"] = sample.metadata.get("carried", 0) + 1
                sample.append_sampled(Generation("r", [number], [-1 / (number + 3)], FinishReason.ABORT, number, "x"))
        data.put_back(back)
        return [group for group in groups if group not in back]

    total = 60
    whole = begin()
    expected = [rollout(whole, number) for number in range(total)]
    kills = set(rng.sample(range(total), 20))
    data, seen = begin(), []
    for number in range(total):
        saved_state = json.dumps(data.state())
        if number in kills:
            rollout(data, number)  # which nobody will hear of
            data = begin()
            data.load_state(json.loads(saved_state))
        seen.append(rollout(data, number))
    assert seen == expected
    handed = [group[0].group_index for groups in seen for group in groups]
    left = [group[0].group_index for group in data.next_groups(data.num_waiting, 2)] if data.num_waiting else []
    assert sorted(handed + left) == list(range(len(handed) + len(left)))


def test_tools_and_template_arguments_reach_the_chat_template(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", [{"input": "u", "label": "1", "t": [{"name": "add"}]}])
    data = opened(str(path), apply_chat_template=True, tool_key="t", apply_chat_template_kwargs={"style": "plain"})
    [[sample]] = data.next_groups(1, 1)
    assert "".join(map(chr, sample.tokens)) == "[add]<user>u<assistant>"
    assert sample.metadata == {"tools": [{"name": "add"}]}
    for field in ({"tool_key": "t"}, {"apply_chat_template_kwargs": {"a": 1}}):
        with pytest.raises(ValueError, match="only applies when apply_chat_template is true"):
            DataConfig.model_validate({"prompt_data": "x.jsonl", **field})


def test_the_index_is_kept_used_again_and_built_anew_for_a_changed_file(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", ROWS)
    assert LineIndex.of(path).read(9) == json.dumps(ROWS[9]).encode()
    [kept] = cache_directory().glob("*.npy")
    written = kept.stat().st_mtime_ns
    assert len(LineIndex.of(path)) == 10
    assert kept.stat().st_mtime_ns == written
    lines(path, ROWS[:4])
    assert len(LineIndex.of(path)) == 4
    kept.write_bytes(b"cut short")
    lines(path, ROWS)
    assert len(LineIndex.of(path)) == 10


@given(st.lists(st.sampled_from([b"{}", b" x", b"", b"  ", b"\t\r", b"abc"]), max_size=30), st.booleans())
@settings(deadline=None)
def test_lines_are_found_as_a_plain_loop_finds_them(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], ended: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes(b"\n".join(content) + (b"\n" if ended else b""))
    expected, offset = [], 0
    for line in path.read_bytes().split(b"\n"):
        if line.strip():
            expected.append(offset)
        offset += len(line) + 1
    assert find_lines(path).tolist() == expected
