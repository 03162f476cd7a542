"""Prompts come in an order that resumes exactly; a wrong file is named with its line and its fix."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.types import Sample, SampleStatus
from trainers.config import DataConfig
from trainers.errors import CheckpointInvalid, DataInvalid
from trainers.rollout.data import PromptData
from trainers.rollout.data import prompts as prompts_module


class Characters:
    """A tokenizer with one token per character, and a template that marks roles."""

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
        return ([0] if add_special_tokens else []) + [ord(character) for character in text]

    def apply_chat_template(self, conversation: list[dict[str, Any]], /, **options: Any) -> Any:
        tools = "".join(f"[{tool['name']}]" for tool in options.pop("tools", ()))
        assert options.pop("style", "plain") == "plain"
        assert options == {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
        if any(message["role"] == "wizard" for message in conversation):
            raise TypeError("no wizards here")
        text = tools + "".join(f"<{m['role']}>{m['content']}" for m in conversation) + "<assistant>"
        return self.encode(text, add_special_tokens=False)


def write(directory: Path, *rows: Any) -> Path:
    path = directory / "prompts.jsonl"
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return path


def opened(path: Path, **changes: Any) -> PromptData:
    check_label = changes.pop("check_label", None)
    return PromptData(DataConfig(prompt_data=str(path), **changes), Characters(), check_label=check_label)


def prompts(groups: list[list[Sample]]) -> list[Any]:
    return [group[0].prompt for group in groups]


def numbered(directory: Path, count: int) -> Path:
    return write(directory, *({"input": f"p{i}", "label": str(i)} for i in range(count)))


def test_samples_carry_tokens_label_metadata_and_their_place(tmp_path: Path) -> None:
    path = write(tmp_path, {"q": "ab", "a": 7, "extra": {"k": [1]}}, {"q": "c", "a": "x", "extra": None})
    data = opened(path, input_key="q", label_key="a", metadata_key="extra")
    first, second = data.next_groups(2, 2)
    assert [s.tokens for s in first] == [[97, 98], [97, 98]]
    assert [(s.index, s.group_index) for s in [*first, *second]] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert (first[0].prompt, first[0].label, first[0].metadata) == ("ab", 7, {"k": [1]})
    assert (second[0].label, second[0].metadata) == ("x", {})
    assert {s.status for s in first} == {SampleStatus.PENDING}
    first[0].metadata["k"].append(2)
    first[0].tokens.append(1)
    assert (first[1].metadata, first[1].tokens) == ({"k": [1]}, [97, 98])


def test_a_string_and_a_list_of_messages_are_rendered_by_the_chat_template(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    data = opened(write(tmp_path, {"input": "u"}, {"input": messages}), apply_chat_template=True)
    plain, listed = data.next_groups(2, 1)
    assert "".join(map(chr, plain[0].tokens)) == "<user>u<assistant>"
    assert "".join(map(chr, listed[0].tokens)) == "<system>s<user>u<assistant>"
    assert listed[0].prompt == messages


def test_a_batch_goes_on_into_the_next_epoch_and_may_exceed_the_file(tmp_path: Path) -> None:
    data = opened(numbered(tmp_path, 3))
    assert prompts(data.next_groups(2, 1)) == ["p0", "p1"]
    assert prompts(data.next_groups(2, 1)) == ["p2", "p0"]
    assert prompts(data.next_groups(7, 1)) == ["p1", "p2", "p0", "p1", "p2", "p0", "p1"]
    state = data.state()
    assert state["cursors"] == [{"epoch": 3, "offset": 2, "drawn": 11}]
    assert (state["next_sample_index"], state["next_group_index"]) == (11, 11)


def test_shuffling_permutes_each_epoch_differently_and_by_the_seed_alone(tmp_path: Path) -> None:
    path = numbered(tmp_path, 20)
    data = opened(path, shuffle=True, seed=5)
    epochs = [prompts(data.next_groups(20, 1)) for _ in range(3)]
    assert all(sorted(epoch) == sorted(f"p{i}" for i in range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert prompts(opened(path, shuffle=True, seed=5).next_groups(60, 1)) == [p for epoch in epochs for p in epoch]
    assert prompts(opened(path, shuffle=True, seed=6).next_groups(20, 1)) != epochs[0]


@settings(max_examples=30)
@given(before=st.integers(0, 25), after=st.integers(1, 25), shuffle=st.booleans())
def test_a_resumed_run_sees_what_the_interrupted_one_would_have_seen(
    tmp_path_factory: pytest.TempPathFactory, before: int, after: int, shuffle: bool
) -> None:
    path = numbered(tmp_path_factory.mktemp("data"), 7)
    whole, resumed = opened(path, shuffle=shuffle), opened(path, shuffle=shuffle)
    whole.next_groups(before, 3)
    resumed.load_state(json.loads(json.dumps(whole.state())))
    assert resumed.next_groups(after, 3) == whole.next_groups(after, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cursors": None}, "cannot be read"),
        ({"cursors": [{"epoch": 0, "offset": 4, "drawn": 4}]}, "other data"),
        ({"cursors": [{"epoch": -1, "offset": 0, "drawn": 0}]}, "no count"),
        ({"cursors": [{"epoch": "0", "offset": 0, "drawn": 0}]}, "no count"),
        ({"cursors": [], "identities": []}, "trained on 0 data sets, and data.prompt_data has 1"),
        ({"identities": ["9 lines"]}, "then 9 lines, now 3 lines"),
        ({"order": {"shuffle": True}}, r"another order: then {'shuffle': True}, now {'shuffle': False, 'seed': 42"),
    ],
)
def test_a_position_of_other_data_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = opened(numbered(tmp_path, 3))
    with pytest.raises(CheckpointInvalid, match=message):
        data.load_state(data.state() | change)
    with pytest.raises(CheckpointInvalid, match="cannot be read"):
        data.load_state({})


def test_prompts_over_the_limit_are_left_out_and_counted(tmp_path: Path) -> None:
    data = opened(write(tmp_path, {"input": "long!"}, {"input": "abc"}, {"input": "abcd"}), max_prompt_len=3)
    assert (len(data), data.num_too_long) == (1, 2)
    assert prompts(data.next_groups(2, 1)) == ["abc", "abc"]


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline_are_fine(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf{"input": "a"}\n', b"\n", b"  \r\n", '{"input": "ü"}'.encode())
    assert prompts(opened(path).next_groups(2, 1)) == ["a", "ü"]


GOOD = {"input": "p", "label": "1"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"input": "p"\n', r"line 3: not JSON at column \d+: Expecting ',' delimiter"),
        (b"\xff\xfe\n", "line 3: not UTF-8 at byte 1"),
        (b'["p"]\n', "line 3: a JSON array, expected an object"),
        (b"[" * 100_000 + b"\n", "line 3: JSON nested too deeply"),
        (b'{"input": "p", "label": NaN}\n', "line 3: not JSON: NaN"),
        (b'{"input": "p", "label": ' + b"1" * 5000 + b"}\n", "line 3: not JSON: Exceeds the limit"),
        (
            {"prompt": "p", "label": "1"},
            r"line 3: no key 'input' \(data.input_key\); its keys are \['label', 'prompt'\]",
        ),
        ({"input": "p"}, r"line 3: no key 'label' \(data.label_key\); its keys are \['input'\]"),
        ({"input": 3, "label": "1"}, r"line 3: 'input' \(data.input_key\) is a JSON number"),
        ({"input": "p", "label": "1", "metadata": [1]}, r"line 3: 'metadata' \(data.metadata_key\) is a JSON array"),
        ({"input": [{"role": "user"}], "label": "1"}, "line 3: .*set data.apply_chat_template"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong_and_the_fix(tmp_path: Path, bad: Any, message: str) -> None:
    path = write(tmp_path, GOOD, GOOD, bad)
    with pytest.raises(DataInvalid, match=message) as raised:
        opened(path, label_key="label")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("messages", [[], ["u"], [{"content": "u"}]])
def test_messages_without_roles_are_refused(tmp_path: Path, messages: Any) -> None:
    with pytest.raises(DataInvalid, match=r"line 1: .* each with a 'role'"):
        opened(write(tmp_path, {"input": messages}), apply_chat_template=True)


@pytest.mark.parametrize("large", [False, True])
def test_prompts_that_cannot_be_rendered_are_named_before_a_run_begins(
    large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(prompts_module, "MEASURED_ROWS", 1)
    path = write(tmp_path, {"input": "u"}, {"input": [{"role": "wizard", "content": "u"}]})
    with pytest.raises(DataInvalid, match="line 2: the tokenizer's chat template refuses it: no wizards here"):
        opened(path, apply_chat_template=True)
    with pytest.raises(DataInvalid, match="line 2: the prompt has no tokens"):
        opened(write(tmp_path, {"input": "u"}, {"input": ""}))

    class Strict(Characters):
        def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
            return list(text.encode())

    with pytest.raises(DataInvalid, match=r"line 2: the tokenizer refuses it: .* surrogates not allowed"):
        PromptData(DataConfig(prompt_data=str(write(tmp_path, {"input": "u"}, {"input": "\ud800"}))), Strict())


def test_a_part_of_a_message_that_is_no_text_is_refused(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image", "image": "a.png"}]
    path = write(tmp_path, {"input": [{"role": "user", "content": parts}]})
    with pytest.raises(DataInvalid, match=r"line 1: 'input' .* a part of type 'image': prompts are text"):
        opened(path, apply_chat_template=True)


def test_a_label_that_the_reward_cannot_use_is_named(tmp_path: Path) -> None:
    def check(label: Any, metadata: Mapping[str, Any]) -> None:
        if label is None and not metadata:
            raise ValueError("no label")

    with pytest.raises(DataInvalid, match="line 2: no label"):
        opened(write(tmp_path, {"input": "p", "metadata": {"a": 1}}, {"input": "p"}), check_label=check)


def test_a_missing_an_empty_and_a_foreign_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"nowhere\.jsonl cannot be read: No such file"):
        opened(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataInvalid, match="holds no prompt"):
        opened(write(tmp_path, b"\n"))
    with pytest.raises(DataInvalid, match=r"all 1 prompts exceed data\.max_prompt_len = 2"):
        opened(write(tmp_path, {"input": "abc"}), max_prompt_len=2)
    with pytest.raises(DataInvalid, match=r"must be a \.jsonl, \.json or \.parquet file"):
        opened(tmp_path / "prompts.txt")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataInvalid, match="cannot be read: Is a directory"):
        opened(tmp_path / "folder.jsonl")
