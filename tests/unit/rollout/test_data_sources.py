"""The same rows from any format, parts and mixtures of them, an index that is built once, and resumption anywhere."""

import io
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.types import FinishReason, Generation, Sample
from tests.unit.rollout.test_data import Characters
from trainers.config import DataConfig
from trainers.errors import CheckpointInvalid, DataInvalid, StorageFailed
from trainers.rollout.buffer import Buffer
from trainers.rollout.data import PromptData, check, tables
from trainers.rollout.data import prompts as prompts_module
from trainers.rollout.data.cache import cache_directory, content_hash
from trainers.rollout.data.lines import LineIndex, find_lines
from trainers.rollout.data.order import feistel, next_of, order_of
from trainers.rollout.data.rows import open_rows

ROWS = [{"input": f"p{i}", "label": str(i), "metadata": {"n": i}} for i in range(10)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLWAY_CACHE", str(tmp_path / "cache"))


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settled(path: Path, seconds_ago: int = 100) -> Path:
    """Last changed a while ago."""
    os.utime(path, ns=(0, (time.time_ns() // 10**9 - seconds_ago) * 10**9))
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
    (tmp_path / "e.json").write_text("{}\n{}\n")
    with pytest.raises(DataInvalid, match=r"Extra data.*: a file of one object a line is named \.jsonl"):
        opened(str(tmp_path / "e.json"))
    with pytest.raises(DataInvalid, match=r"no state\.json; list the files that are meant, such as c\.parquet"):
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


@settings(max_examples=12, deadline=None)
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


def test_tools_and_metadata_that_are_kept_as_text_are_read(tmp_path: Path) -> None:
    noted = lines(tmp_path / "noted.jsonl", [{"input": "u", "label": "1", "metadata": '{"n": [1]}'}])
    assert opened(str(noted)).next_groups(1, 1)[0][0].metadata == {"n": [1]}
    for text, says in (("n", "'metadata' .* is text, and not JSON"), ("[1]", "is a JSON array, not an object")):
        with pytest.raises(DataInvalid, match=says):
            opened(str(lines(tmp_path / "noted.jsonl", [{"input": "u", "label": "1", "metadata": text}])))
    as_text = lines(tmp_path / "rows.jsonl", [{"input": "u", "label": "1", "t": '[{"name": "add"}]'}])
    [[sample]] = opened(str(as_text), apply_chat_template=True, tool_key="t").next_groups(1, 1)
    assert sample.metadata == {"tools": [{"name": "add"}]}
    for wrong, says in (("[{", "is text, and not JSON"), ('{"name": "add"}', "is a JSON object, expected an array")):
        path = lines(tmp_path / "wrong.jsonl", [{"input": "u", "label": "1", "t": wrong}])
        with pytest.raises(DataInvalid, match=says):
            opened(str(path), apply_chat_template=True, tool_key="t").next_groups(1, 1)


def test_the_index_is_kept_used_again_and_built_anew_for_a_changed_file(tmp_path: Path) -> None:
    path = settled(lines(tmp_path / "rows.jsonl", ROWS))
    assert LineIndex.of(path).read(9) == json.dumps(ROWS[9]).encode()
    [kept] = cache_directory().glob("*.lines")
    written = kept.stat().st_mtime_ns
    again = LineIndex.of(path)
    assert [json.loads(line) for line in again.scan(0, 10)] == ROWS
    assert kept.stat().st_mtime_ns == written
    assert len(LineIndex.of(settled(lines(path, ROWS[:4]), 50))) == 4
    kept.write_bytes(b"cut short")
    assert len(LineIndex.of(settled(lines(path, ROWS)))) == 10


def test_a_file_that_was_changed_just_now_is_not_remembered_as_it_was(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", [{"a": 1}])
    assert LineIndex.of(path).read(0) == b'{"a": 1}'
    stat = path.stat()
    lines(path, [{"a": 2}])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert LineIndex.of(path).read(0) == b'{"a": 2}'
    assert not cache_directory().exists()


def test_where_the_cache_cannot_be_written_everything_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROLLWAY_CACHE", str(tmp_path / "file"))
    path = settled(lines(tmp_path / "rows.jsonl", ROWS))
    assert prompts(opened(str(path)).next_groups(10, 1)) == [row["input"] for row in ROWS]


@given(
    st.lists(st.sampled_from([b"{}", b" x", b"", b"  ", b"\t\r", b"abc"]), max_size=30),
    st.booleans(),
    st.integers(1, 40),
)
@settings(deadline=None)
def test_lines_are_found_as_a_plain_loop_finds_them(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], ended: bool, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes(b"\n".join(content) + (b"\n" if ended else b""))
    expected, offset = [], 0
    for line in path.read_bytes().split(b"\n"):
        if line.strip():
            expected.append(offset)
        offset += len(line) + 1
    offsets = io.BytesIO()
    with patch("trainers.rollout.data.lines.CHUNK", chunk):
        size, digest = find_lines(path, offsets)
        index = LineIndex(path, np.frombuffer(offsets.getvalue(), "<u8"), size, digest)
        assert [index.offset(i) for i in range(len(index))] == expected
        assert list(index.scan(0, len(index))) == [index.read(i) for i in range(len(index))]
    assert [line for line in path.read_bytes().split(b"\n") if line.strip()] == [
        index.read(i) for i in range(len(index))
    ]
    assert (size, digest) == (path.stat().st_size, content_hash(path))


@given(num_rows=st.integers(1, 5000), seed=st.integers(0, 2**40), epoch=st.integers(0, 100))
@settings(max_examples=60)
def test_an_order_without_a_table_is_a_permutation(num_rows: int, seed: int, epoch: int) -> None:
    order = feistel(num_rows, seed=seed, epoch=epoch)
    assert sorted(order(place) for place in range(num_rows)) == list(range(num_rows))


def test_an_order_without_a_table_is_as_even_as_chance() -> None:
    """Where a row goes, and how far apart neighbours land, against what a uniform permutation would give."""
    count, cells, epochs = 1000, 10, 60
    seen = np.zeros((cells, cells))
    distances = []
    for epoch in range(epochs):
        order = feistel(count, seed=1, epoch=epoch)
        rows = np.array([order(place) for place in range(count)])
        np.add.at(seen, (np.arange(count) * cells // count, rows * cells // count), 1)
        distances.append(np.abs(np.diff(rows)).mean() / count)
    expected = count * epochs / cells**2
    chi_squared = ((seen - expected) ** 2 / expected).sum()
    assert 50 < chi_squared < 125  # 81 degrees of freedom: the middle 99.8 %
    assert abs(np.mean(distances) - 1 / 3) < 0.005


def test_ten_million_rows_are_ordered_without_a_table_and_small_ones_with() -> None:
    order = order_of(10_000_000, shuffle=True, seed=7, epoch=3)
    drawn = {order(place) for place in range(2000)}
    assert len(drawn) == 2000
    assert min(drawn) >= 0
    assert max(drawn) < 10_000_000
    small = order_of(9, shuffle=True, seed=7, epoch=3)
    assert [small(i) for i in range(9)] == np.random.default_rng([7, 3]).permutation(9).tolist()


def test_a_large_file_is_checked_whole_by_processes_once_and_the_first_wrong_line_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts_module, "MEASURED_ROWS", 100)
    monkeypatch.setattr(check, "ROWS_PER_PROCESS", 500)
    rows = [{"input": f"p{i}", "label": str(i)} for i in range(1000)]
    path = settled(lines(tmp_path / "rows.jsonl", [*rows[:800], {"label": "1"}, *rows[801:]]), 50)
    with pytest.raises(DataInvalid, match=r"rows\.jsonl line 801: no key 'input'"):
        opened(str(path))
    path = settled(lines(tmp_path / "rows.jsonl", rows), 20)
    with patch.object(check, "_in_processes", return_value=None):
        expected = prompts(opened(str(path), shuffle=True).next_groups(1500, 1))
    assert sorted(expected[:1000]) == sorted(row["input"] for row in rows)
    with patch.object(check, "_in_processes", side_effect=AssertionError("was checked")):
        assert prompts(opened(str(path), shuffle=True).next_groups(1500, 1)) == expected
        with pytest.raises(AssertionError, match="was checked"):
            opened(str(path), label_key=None)


def test_of_a_large_file_prompts_that_are_too_long_are_left_out_when_their_turn_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settled(lines(tmp_path / "rows.jsonl", [{"input": "p" * (1 + i % 3), "label": i} for i in range(30)]))
    small = opened(str(path), max_prompt_len=2)
    monkeypatch.setattr(prompts_module, "MEASURED_ROWS", 10)
    large = opened(str(path), max_prompt_len=2)
    assert (len(small), small.num_too_long, len(large), large.num_too_long) == (20, 10, 30, 0)
    resumed = opened(str(path), max_prompt_len=2)
    assert prompts(large.next_groups(11, 1)) == prompts(small.next_groups(11, 1))
    resumed.load_state(json.loads(json.dumps(large.state())))
    assert prompts(resumed.next_groups(30, 1)) == prompts(small.next_groups(30, 1)) == prompts(large.next_groups(30, 1))
    with pytest.raises(DataInvalid, match="all 30 prompts exceed"):
        opened(str(settled(lines(path, [{"input": "ppp", "label": 1}] * 30), 50)), max_prompt_len=2).next_groups(1, 1)


def test_a_large_parquet_file_is_read_through_a_copy_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=4)
    whole = open_rows([str(path)])
    monkeypatch.setattr(tables, "HELD_BYTES", 10)
    for _ in range(2):
        copied = open_rows([f"{path}@[1:]"])
        assert [copied.read(i) for i in (8, 0, 4)] == [ROWS[9], ROWS[1], ROWS[5]]
        assert list(copied.scan(2, 9)) == ROWS[3:]
        assert copied.identity.startswith(whole.identity)
    [kept] = cache_directory().glob("*.arrow")
    kept.write_bytes(b"damaged")
    with pytest.raises(DataInvalid, match="is no Arrow file"):
        open_rows([str(path)])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROLLWAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageFailed, match="set ROLLWAY_CACHE"):
        open_rows([str(path)])


def test_memory_does_not_grow_with_what_a_parquet_file_stores_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "HELD_BYTES", 1 << 20)
    monkeypatch.setattr(tables, "_BATCH_BYTES", 1 << 16)
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"input": ["same" * 500] * 4000}), path)
    assert path.stat().st_size < 1 << 16
    before = pa.total_allocated_bytes()
    rows = open_rows([str(path)])
    assert rows.read(3999) == {"input": "same" * 500}
    assert sum(1 for _ in rows.scan(0, 4000)) == 4000
    assert pa.total_allocated_bytes() - before < 1 << 20, "it is mapped"
    large = tmp_path / "large.parquet"
    parquet.write_table(pa.table({"input": ["x"] * 64, "image": [bytes(1 << 12)] * 64}), large, use_dictionary=False)
    assert max(batch.num_rows for batch in tables._batches_of(parquet.ParquetFile(large))) <= 16


def test_a_column_of_pairs_is_an_object(tmp_path: Path) -> None:
    pairs = pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64()))
    parquet.write_table(pa.table({"input": ["a", "b"], "label": ["1", "2"], "metadata": pairs}), tmp_path / "r.parquet")
    [[first], [second]] = opened(str(tmp_path / "r.parquet")).next_groups(2, 1)
    assert (first.metadata, second.metadata) == ({"k": 1}, {})


def test_values_that_a_table_keeps_as_json_are_what_was_written(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "input": [{"role": "user", "content": "u"}, {"role": "user", "content": [{"type": "text", "text": "v"}]}],
            "label": "1",
            "metadata": {"a": [1, {"b": None}], "c": "d"},
            "t": [{"name": "f", "x": [1, "a"]}],
        },
        {"input": [{"role": "user", "content": "w"}], "label": 2, "metadata": None, "t": None},
    ]
    table = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    table.save_to_disk(str(tmp_path / "set"))
    table.to_parquet(str(tmp_path / "rows.parquet"))
    for path in (tmp_path / "set", tmp_path / "rows.parquet"):
        read = open_rows([str(path)])
        assert [read.read(i) for i in range(2)] == list(read.scan(0, 2)) == list(table)
    assert table[0]["input"] == rows[0]["input"]
    wrong = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1", "{"]))
    parquet.write_table(pa.table({"input": ["a", "b"], "label": wrong}), tmp_path / "wrong.parquet")
    with pytest.raises(DataInvalid, match=r"wrong\.parquet row 2: a value of type JSON is none: Expecting"):
        opened(str(tmp_path / "wrong.parquet"))
    pairs = pa.map_(pa.string(), pa.list_(pa.json_()))
    parse = tables.parser(pa.struct([("m", pairs)]))
    assert parse is not None
    assert parse({"m": {"k": ["[1]", None]}, "n": 1}) == {"m": {"k": [[1], None]}, "n": 1}
    assert tables.parser(pa.struct([("m", pa.map_(pa.string(), pa.list_(pa.int64())))])) is None


def test_data_sets_of_a_mixture_have_keys_and_names_of_their_own(tmp_path: Path) -> None:
    first = lines(tmp_path / "a.jsonl", [{"q": "one", "a": "1", "metadata": {"k": 1}}])
    second = lines(tmp_path / "b.jsonl", [{"input": "two", "label": "2", "metadata": {"data_set": "other"}}])
    mixture = [{"path": str(first), "name": "maths", "input_key": "q", "label_key": "a"}, {"path": [str(second)]}]
    [one], [two] = opened(mixture).next_groups(2, 1)
    assert (one.prompt, one.label, one.metadata) == ("one", "1", {"k": 1, "data_set": "maths"})
    assert (two.prompt, two.label, two.metadata) == ("two", "2", {"data_set": "other"})
    with pytest.raises(DataInvalid, match=r"b\.jsonl line 1: its metadata says data_set = 'other', .* names it 'mine'"):
        opened([mixture[0], mixture[1] | {"name": "mine"}])
    with pytest.raises(ValueError, match="two data sets are named 'maths'"):
        opened([mixture[0], mixture[0]])


def test_a_slice_without_rows_or_of_another_form_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(DataInvalid, match=r"@\[10:\] has no row: the file has 10"):
        opened(f"{path}@[10:]")
    for part in ("[3]", "[1-2]", "[a:b]"):
        with pytest.raises(DataInvalid, match=r"is written path@\[start:end\]"):
            opened(f"{path}@{part}")


def test_other_content_of_the_same_size_is_refused_and_a_copy_elsewhere_is_not(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", ROWS)
    state = opened(str(path)).state()
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(path.read_bytes())
    opened(str(copy)).load_state(state)
    path.write_bytes(path.read_bytes().replace(b"p5", b"q5"))
    with pytest.raises(CheckpointInvalid, match="was trained on other data"):
        opened(str(path)).load_state(state)


def test_a_million_lines_open_quickly_from_a_kept_index_and_memory_stays_small(tmp_path: Path) -> None:
    """In a process of its own, whose peak memory is its own."""
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        file.writelines(f'{{"input": "p{i}", "label": "{i}"}}\n' for i in range(1_000_000))
    settled(path)
    code = """
import resource, sys, time
from tests.unit.rollout.test_data import Characters
from trainers.config import DataConfig
from trainers.rollout.data import PromptData
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.process_time()
data = PromptData(DataConfig(prompt_data=sys.argv[1], label_key="label", shuffle=True), Characters())
opened = time.process_time() - begin
data.next_groups(2000, 1)
print(opened, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    LineIndex.of(path)
    with patch.object(check, "_in_processes", return_value=None):  # the rows are right
        opened(str(path))
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 2
    assert megabytes < 60
