"""Rules score what they say, never raise and never hang; a user's function is held to its contract."""

import asyncio
import os
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from engines.types import Sample, SampleStatus
from trainers.config.reward import CustomRewardConfig, RewardConfig
from trainers.errors import PluginInvalid, RolloutFailed
from trainers.rollout.rewards import label_check, load_reward
from trainers.rollout.rewards.custom import CustomReward
from trainers.rollout.rewards.exact import exact_match
from trainers.rollout.rewards.number import last_number_match
from trainers.rollout.rewards.pattern import PatternMatcher
from trainers.rollout.rewards.verdict import Verdict

hostile = st.text(st.characters(codec=None), max_size=200) | st.sampled_from(
    [
        "1" * 50_000,
        "-" * 50_000,
        "1," * 50_000,
        "1,234" * 20_000,
        "1.1" * 20_000,
        ".", "-.", "١٢٣", "\ud800", "\0", "1e999999999", "\n\n7\n", "½", "−", "a" * 30 + "!",
    ]
)  # fmt: skip
labels = hostile | st.integers() | st.floats(allow_nan=False) | st.none()


def config(**fields: Any) -> Any:
    return TypeAdapter(RewardConfig).validate_python(fields)


def sample(response: str = "", label: Any = None) -> Sample:
    return Sample(index=4, group_index=0, prompt="p", response=response, label=label, status=SampleStatus.COMPLETED)


@pytest.mark.parametrize(
    ("response", "label", "expected"),
    [("7", "7", 1), (" 7\n", "7 ", 1), ("7", 7, 1), ("07", "7", 0), ("7 7", "7", 0), ("", "", 1), ("x", None, 0)],
)
def test_exact_match_ignores_nothing_but_white_space_around(response: str, label: Any, expected: float) -> None:
    assert exact_match(response, label) == expected


@pytest.mark.parametrize(
    ("response", "label", "expected"),
    [
        ("3+4 is 7", "7", 1),
        ("first 7, then 8", "7", 0),
        ("so it costs $1,234.50.", 1234.5, 1),
        ("1,234", "#### 1234", 1),
        ("12,34", "34", 1),
        ("1,2345", "2345", 1),
        ("7.0", 7, 1),
        ("-4", -4, 1),
        ("−4", -4, 1),
        ("3-4", 4, 1),
        ("3-4", -4, 0),
        ("x = -4", -4, 1),
        (".5", 0.5, 1),
        ("0.1", 0.1, 1),
        ("no number", 7, 0),
        ("", 7, 0),
        ("7", "none", 0),
        ("1" * 5000, "1" * 5000, 1),
    ],
)
def test_last_number_compares_exact_decimals(response: str, label: Any, expected: float) -> None:
    assert last_number_match(response, label) == expected


@given(response=hostile, label=labels)
def test_a_rule_neither_raises_nor_hangs_on_hostile_strings(response: str, label: Any) -> None:
    started = time.monotonic()
    assert exact_match(response, label) in (0.0, 1.0)
    assert last_number_match(response, label) in (0.0, 1.0)
    assert time.monotonic() - started < 2.0


@given(number=st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_a_number_is_found_however_it_is_written(number: Any) -> None:
    assert last_number_match(f"1 and 2 make: {number:,f} apples", f"{number:f}") == 1.0
    assert last_number_match(f"= {number:f}", f"{number + 1:f}") == 0.0


@pytest.mark.parametrize(
    ("response", "label", "expected"),
    [
        ("  abbb\n", "ab+", 1),
        ("abbbc", "ab+", 0),
        ("7", 7, 1),
        ("a\nb", "a\nb", 1),
        ("\ud800", ".", 1),
        ("x", "(", 0),
        ("\u2028x\x85y", "(?s).*y", 1),
    ],
)
async def test_regex_match_wants_the_whole_response(response: str, label: Any, expected: float) -> None:
    score = load_reward(config(type="regex_match"))
    assert await score(sample(response, label)) == expected


async def test_a_pattern_that_backtracks_for_ever_costs_its_deadline_and_nothing_else() -> None:
    match = PatternMatcher(0.2)
    assert await match("a", "a") == 1.0  # the helper is up
    started = time.monotonic()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    assert await match("a" * 60 + "!", "(a+)+") == 0.0
    ticking.cancel()
    assert 0.1 < time.monotonic() - started < 5.0
    assert ticks >= 3  # the loop went on meanwhile
    assert await match("b", "b") == 1.0


async def test_a_cancelled_match_does_not_answer_for_the_next() -> None:
    match = PatternMatcher(1.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await match("a" * 60 + "!", "(a+)+")
    assert [await match("a", "a"), await match("a", "b"), await match("b", "b")] == [1.0, 0.0, 1.0]


@settings(max_examples=5, deadline=None)
@given(cases=st.lists(st.tuples(hostile, labels), min_size=1, max_size=20))
def test_patterns_and_responses_of_any_kind_only_ever_match_or_not(cases: list[tuple[str, Any]]) -> None:
    async def scores() -> list[float]:
        match = PatternMatcher(0.2)
        return [await match(response, label) for response, label in cases]

    assert set(asyncio.run(scores())) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("kind", "label", "message"),
    [
        ("exact_match", None, r"no label.* set data\.label_key"),
        ("exact_match", ["7"], "neither a string nor a number"),
        ("exact_match", True, "neither a string nor a number"),
        ("last_number", "seven", "holds no number"),
        ("regex_match", "(", "no regular expression: missing"),
    ],
)
def test_a_label_that_can_never_be_rewarded_is_refused(kind: Any, label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_check(config(type=kind))(label)


def test_usable_labels_pass_and_a_custom_function_takes_any() -> None:
    label_check(config(type="exact_match"))(7)
    label_check(config(type="last_number"))("#### 7")
    label_check(config(type="regex_match"))("a+")
    label_check(CustomRewardConfig(function="m:f"))(None)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module and say its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        name = f"rewards_{os.urandom(4).hex()}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    yield write  # pyright: ignore[reportReturnType]
    for name in [name for name in sys.modules if name.startswith("rewards_")]:
        del sys.modules[name]


def custom(path: str, timeout_s: float = 30.0) -> Any:
    return load_reward(CustomRewardConfig(function=path, timeout_s=timeout_s))


async def test_plain_async_and_callable_functions_score(plugin: Callable[[str], str]) -> None:
    module = plugin(
        """
        def plain(sample): return len(sample.response)
        async def awaited(sample): return len(sample.response) / 2
        def boolean(sample): return True
        class Judge:
            async def __call__(self, sample): return 0.25
            @staticmethod
            def static(sample): return 3
        judge = Judge()
        """
    )
    scores = [
        await custom(f"{module}:{name}")(sample("abc"))
        for name in ("plain", "awaited", "boolean", "judge", "Judge.static")
    ]
    assert scores == [3.0, 1.5, 1.0, 0.25, 3.0]


@pytest.mark.parametrize(
    "value",
    ["'1'", "None", "float('nan')", "float('inf')", "[1]", "1j", "10**400"],
    ids=["text", "none", "nan", "inf", "list", "complex", "huge"],
)
async def test_what_is_no_finite_number_ends_the_rollout_with_the_functions_name(
    plugin: Callable[[str], str], value: str
) -> None:
    module = plugin(f"def score(sample): return {value}")
    with pytest.raises(RolloutFailed, match=rf"{module}:score returned .* for sample 4: expected a finite number"):
        await custom(f"{module}:score")(sample())


@pytest.mark.parametrize(
    "error", ["ValueError('bad')", "TimeoutError('judge')", "StopIteration()", "__import__('asyncio').CancelledError()"]
)
@pytest.mark.parametrize("keyword", ["", "async "])
async def test_an_error_of_the_function_is_told_with_its_name(
    plugin: Callable[[str], str], error: str, keyword: str
) -> None:
    module = plugin(f"{keyword}def score(sample): raise {error}")
    with pytest.raises(RolloutFailed, match=rf"{module}:score raised .* for sample 4"):
        await custom(f"{module}:score")(sample())


async def test_a_function_that_does_not_return_in_time_gives_no_reward(plugin: Callable[[str], str]) -> None:
    module = plugin(
        """
        import asyncio, threading
        release = threading.Event()
        def blocks(sample): release.wait(20)
        async def waits(sample): await asyncio.Event().wait()
        """
    )
    assert await custom(f"{module}:blocks", timeout_s=0.1)(sample()) is None
    assert await custom(f"{module}:waits", timeout_s=0.1)(sample()) is None
    sys.modules[module].release.set()


async def test_many_quick_plain_functions_all_get_their_turn() -> None:
    score = CustomReward(lambda each: each.index, name="m:f", timeout_s=20)
    assert await asyncio.gather(*(score(sample()) for _ in range(200))) == [Verdict(4.0)] * 200


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("x = 1", "missing", "has no 'missing'"),
        ("x = 1", "x", "is a int, not a function"),
        ("def x(): pass", "x", r"has the signature \(\), but is called with \(sample\): too many positional"),
        ("def x(a, b): pass", "x", "missing a required argument: 'b'"),
        ("import nowhere_at_all", "x", "No module named 'nowhere_at_all'"),
        ("1 / 0", "x", "raised ZeroDivisionError"),
        ("def", "x", "raised SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_used_says_why(
    plugin: Callable[[str], str], source: str, name: str, message: str
) -> None:
    with pytest.raises(PluginInvalid, match=message):
        custom(f"{plugin(source)}:{name}")


@pytest.mark.parametrize("path", ["module", "module:", ":f", ""])
def test_a_path_without_module_or_function_is_refused(path: str) -> None:
    with pytest.raises(PluginInvalid, match="must have the form"):
        custom(path)


def test_a_missing_module_is_named_with_the_fix() -> None:
    with pytest.raises(PluginInvalid, match=r"no module 'nowhere': add its directory to runtime\.python_path"):
        custom("nowhere.at.all:f")
