"""Rollouts come back from disk as they were."""

import collections
import datetime
import gzip
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.types import Sample, SampleStatus
from trainers.errors import DataInvalid
from trainers.rollout.dump import check_rollouts, dump_path, load_rollout, save_rollout

floats = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
samples = st.builds(
    Sample,
    index=st.integers(0, 10**9),
    group_index=st.integers(0, 10**9),
    prompt=st.text() | st.just([{"role": "user", "content": "1+1="}]),
    tokens=st.lists(st.integers(0, 2**31 - 1), max_size=8),
    response=st.text(),
    label=json_values,
    reward=st.none() | floats,
    loss_mask=st.lists(st.integers(0, 1), max_size=8),
    status=st.sampled_from(SampleStatus),
    metadata=st.dictionaries(st.text(), json_values, max_size=3),
    rollout_log_probs=st.lists(floats, max_size=8),
    weight_versions=st.lists(st.integers(0, 10**6), max_size=8),
)


@given(st.lists(st.lists(samples, min_size=1, max_size=3), max_size=3))
@settings(max_examples=60, deadline=None)
def test_what_is_read_is_what_was_written_bit_for_bit(groups: list[list[Sample]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "new"
        assert save_rollout(directory, 7, 6, groups) == dump_path(directory, 7)
        assert load_rollout(directory, 7) == groups
        assert [path.name for path in directory.iterdir()] == ["rollout_0000007.jsonl.gz"]


def test_a_rollout_that_is_not_there_says_which_are(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="it holds no rollout"):
        load_rollout(tmp_path, 3)
    for rollout in (1, 2):
        save_rollout(tmp_path, rollout, rollout, [])
    with pytest.raises(
        DataInvalid, match=r"no rollout_0000003.jsonl.gz: it holds rollout_0000001.* to rollout_0000002"
    ):
        load_rollout(tmp_path, 3)
    check_rollouts(tmp_path, 3)
    with pytest.raises(DataInvalid, match=r"debug.load_rollouts: .* no rollout_0000003.jsonl.gz"):
        check_rollouts(tmp_path, 4)


def test_a_damaged_rollout_is_named_with_its_line(tmp_path: Path) -> None:
    path = save_rollout(tmp_path, 0, 0, [[Sample(0, 0, "a")], [Sample(1, 1, "b")]])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataInvalid, match=r"rollout_0000000.jsonl.gz, line \d: not a rollout"):
        load_rollout(tmp_path, 0)
    lines = gzip.decompress(whole).decode().splitlines(keepends=True)
    path.write_bytes(gzip.compress("".join([*lines[:2], '[{"strange": 1}]\n']).encode()))
    with pytest.raises(DataInvalid, match="line 3: not a rollout: ValueError: its fields differ in group_index, "):
        load_rollout(tmp_path, 0)
    path.write_bytes(gzip.compress("".join(lines[:2]).encode()))
    with pytest.raises(DataInvalid, match="holds 1 of its 2 groups"):
        load_rollout(tmp_path, 0)


def test_what_metadata_holds_beyond_json_comes_back_or_else_as_its_text(tmp_path: Path) -> None:
    class Own:
        def __str__(self) -> str:
            return "own"

    plain = {
        "scalar": np.float32(0.1),
        "pair": (1, {2, 3}),
        3: b"bytes",
        "when": datetime.date(2026, 1, 2),
        "$array": "not one",
    }
    near = {"counts": collections.Counter("aab"), "mine": [Own(), Own], "objects": np.array([Own()])}
    tokens: Any = [np.int64(7), 8]
    count: Any = np.int64(4)
    sample = Sample(
        count,
        0,
        "p",
        tokens=tokens,
        response_length=count,
        session_id=count,
        label=np.arange(6).reshape(2, 3),
        metadata=plain | near,
    )
    save_rollout(tmp_path, 0, 0, [[sample]])
    [[found]] = load_rollout(tmp_path, 0)
    assert (found.index, found.response_length, found.session_id) == (4, 4, 4)
    assert found.tokens == [7, 8] and type(found.tokens[0]) is int
    assert np.array_equal(found.label, sample.label) and found.label.dtype == sample.label.dtype
    assert {key: found.metadata[key] for key in plain} == plain
    assert type(found.metadata["scalar"]) is np.float32
    assert found.metadata["counts"] == {"a": 2, "b": 1}
    assert found.metadata["mine"] == ["own", str(Own)]
    assert found.metadata["objects"] == str(near["objects"])


def test_a_reward_that_is_not_a_number_survives(tmp_path: Path) -> None:
    save_rollout(tmp_path, 0, 0, [[Sample(0, 0, "a", reward=math.inf)]])
    assert load_rollout(tmp_path, 0)[0][0].reward == math.inf
