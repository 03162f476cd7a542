"""What is encoded comes back: each token, each float bit for bit, each type of the user's values."""

import datetime
import json
import math
import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.types import Sample, SampleStatus
from trainers.rollout.samples import decode, decode_groups, encode, encode_groups

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.just("$tuple") | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
        | st.frozensets(st.integers() | st.text(max_size=2), max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    length = draw(st.integers(0, 6))
    prompt = draw(st.lists(st.integers(0, 2**40), max_size=4))

    def each(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=length, max_size=length))

    return Sample(
        index=draw(st.integers(0, 2**60)),
        group_index=draw(st.integers(0, 2**60)),
        prompt=draw(st.text() | st.just([{"role": "user", "content": "é"}])),
        tokens=prompt + each(st.integers(0, 300_000)),
        response=draw(st.text()),
        response_length=length,
        label=draw(PLAIN),
        reward=draw(st.none() | st.floats(allow_nan=False)),
        loss_mask=each(st.integers(0, 1)),
        status=draw(st.sampled_from(SampleStatus)),
        metadata=draw(st.dictionaries(st.text(), PLAIN, max_size=4)),
        rollout_log_probs=each(st.floats(allow_nan=False)),
        weight_versions=each(st.integers(0, 2**33)),
        session_id=draw(st.none() | st.text()),
        trajectory_index=draw(st.none() | st.integers(0, 9)),
    )


def types(value: Any) -> Any:
    """The type of each value inside; equal numbers of different types are told apart by it."""
    if isinstance(value, list | tuple):
        return type(value), [types(each) for each in value]
    if isinstance(value, dict):
        return dict, [(types(key), types(each)) for key, each in value.items()]
    return type(value)


@given(st.lists(st.lists(samples(), max_size=2), max_size=2))
def test_any_groups_come_back_as_they_were(groups: list[list[Sample]]) -> None:
    back = decode_groups(json.loads(json.dumps(encode_groups(groups), allow_nan=False)))
    assert back == groups
    for ours, theirs in zip((s for g in back for s in g), (s for g in groups for s in g), strict=True):
        assert types(ours.metadata) == types(theirs.metadata)
        assert types(ours.label) == types(theirs.label)
        count = len(theirs.rollout_log_probs)
        expected = struct.pack(f"{count}d", *theirs.rollout_log_probs)
        assert struct.pack(f"{count}d", *ours.rollout_log_probs) == expected


def test_values_that_json_has_no_word_for_come_back() -> None:
    label = [datetime.datetime(2026, 1, 2, 3, 4, 5, 6), datetime.date(2026, 1, 2), datetime.time(1, 2), Decimal("1.10")]
    metadata = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.float32(0.1), "n": math.nan, "i": -math.inf}
    sample = Sample(index=0, group_index=0, prompt="", label=label, metadata=metadata, reward=math.nan)
    back = decode(json.loads(json.dumps(encode(sample), allow_nan=False)))
    assert back.label == label
    assert back.metadata["a"].dtype == np.float32
    assert back.metadata["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (back.metadata["s"], type(back.metadata["s"])) == (np.float32(0.1), np.float32)
    assert math.isnan(back.metadata["n"])
    assert back.metadata["i"] == -math.inf
    assert math.isnan(back.reward or 0)


def test_what_would_not_come_back_is_refused_with_its_place() -> None:
    sample = Sample(index=7, group_index=0, prompt="", metadata={"tools": [{"call": len}]})
    with pytest.raises(TypeError, match=r"sample 7: metadata\.tools\[0\]\.call is of type builtin_function"):
        encode(sample)
    with pytest.raises(TypeError, match="sample 8: rollout_log_probs"):
        encode(Sample(index=8, group_index=0, prompt="", rollout_log_probs=["x"]))  # type: ignore[list-item]


@pytest.mark.parametrize(
    "change",
    [{"tokens": "|i1,@@"}, {"tokens": "|O,AA"}, {"status": "odd"}, {"label": {"$odd": 1}}, {"label": {"$dict": 3}}],
)
def test_what_was_not_encoded_is_refused(change: dict[str, Any]) -> None:
    good = encode(Sample(index=0, group_index=0, prompt="p"))
    with pytest.raises(ValueError):
        decode(good | change)
    with pytest.raises(ValueError, match="differ in strange"):
        decode(good | {"strange": 1})
    with pytest.raises(ValueError, match="no encoded samples"):
        decode_groups({"version": 1})


def test_long_responses_are_kept_small() -> None:
    rng = np.random.default_rng(0)
    count = 10_000
    sample = Sample(
        index=0,
        group_index=0,
        prompt="p",
        tokens=rng.integers(0, 150_000, count).tolist(),
        response_length=count,
        loss_mask=[1] * count,
        rollout_log_probs=(-rng.exponential(size=count)).astype(np.float32).tolist(),
        weight_versions=[3] * count,
    )
    assert len(json.dumps(encode(sample))) < 12.5 * count
    assert decode(encode(sample)) == sample
