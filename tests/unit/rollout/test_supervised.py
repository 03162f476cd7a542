"""Responses from the data: which tokens train, turn by turn, and what is refused."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.config import SamplingConfig
from engines.types import Generation, Sample, SampleStatus
from tests.e2e.tiny_model import _tokenizer
from trainers.config import DataConfig, RunConfig
from trainers.errors import DataInvalid
from trainers.rollout import dpo, sft
from trainers.rollout.data import LabelCheck, PromptData
from trainers.rollout.dpo import dpo_rollout
from trainers.rollout.protocols import RolloutContext
from trainers.rollout.responses import ResponseTokenizer
from trainers.rollout.sft import sft_rollout

WITH_END = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}<eos>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
WITH_TOOLS = "{% for tool in tools or [] %}[{{ tool['name'] }}]{% endfor %}" + WITH_END
# Like templates that drop the reasoning of all turns but the last.
UNSTABLE = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' and loop.last %}!{% endif %}"
    "{{ m['content'] }}{% if m['role'] == 'assistant' %}<eos>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return _tokenizer()


def conversation(*contents: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def trained(tokenizer: Any, response: Any) -> str:
    """The text of the tokens with mask 1, runs separated by a bar."""
    text = ""
    for token, bit in zip(response.tokens[response.start :], response.loss_mask, strict=True):
        text += tokenizer.decode([token]) if bit else "|"
    return "|".join(part for part in text.split("|") if part)


def test_every_turn_of_the_assistant_trains_with_its_end_token_and_nothing_else(tokenizer: Any) -> None:
    tokenizer.chat_template = WITH_END
    tokenize = ResponseTokenizer(tokenizer, True, {})
    response = tokenize(conversation("hi", "ab", "more", "cd"), [], None, where="row")
    assert trained(tokenizer, response) == "ab<eos>|cd<eos>"
    assert tokenizer.decode(response.tokens) == "<user>hi<assistant>ab<eos>\n<user>more<assistant>cd<eos>"
    assert response.start == 4
    assert len(response.loss_mask) == len(response.tokens) - response.start


def test_a_template_that_renders_the_last_turn_in_its_own_way_is_taken_as_it_renders_the_whole(tokenizer: Any) -> None:
    tokenizer.chat_template = UNSTABLE
    tokenize = ResponseTokenizer(tokenizer, True, {})
    response = tokenize(conversation("hi", "ab", "more", "cd"), [], None, where="row")
    assert trained(tokenizer, response) == "ab<eos>|!cd<eos>"


def test_an_answer_follows_the_prompt_with_and_without_a_template(tokenizer: Any) -> None:
    tokenizer.chat_template = WITH_END
    with_template = ResponseTokenizer(tokenizer, True, {})("1+1=", [], "2", where="row")
    assert tokenizer.decode(with_template.tokens) == "<user>1+1=<assistant>2<eos>"
    assert with_template.loss_mask == [1, 1]
    plain = ResponseTokenizer(tokenizer, False, {})("1+1=", tokenizer.encode("1+1="), "2", where="row")
    assert tokenizer.decode(plain.tokens) == "1+1=2<eos>"
    assert (plain.start, plain.loss_mask) == (4, [1, 1])


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [
        (conversation("hi"), None, "row 3: the conversation needs a message of the assistant"),
        (conversation("hi"), 7, "row 3: the answer is a int"),
        ([{"role": "assistant", "content": "x"}], None, "and one before it"),
    ],
)
def test_a_row_without_an_answer_is_named(tokenizer: Any, prompt: Any, answer: Any, message: str) -> None:
    tokenizer.chat_template = WITH_END
    with pytest.raises(DataInvalid, match=message):
        ResponseTokenizer(tokenizer, True, {})(prompt, [], answer, where="row 3")


class Rows:
    """A data source of one row, again and again."""

    def __init__(self, prompt: str, label: Any, metadata: dict[str, Any] | None = None):
        self._row = (prompt, label, metadata or {})

    def __len__(self) -> int:
        return 1

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        prompt, label, metadata = self._row
        tokens = [20, 21]
        return [
            [
                Sample(
                    index=g * n_samples + i,
                    group_index=g,
                    prompt=prompt,
                    tokens=[*tokens],
                    label=label,
                    metadata=metadata,
                )
                for i in range(n_samples)
            ]
            for g in range(n_prompts)
        ]

    def put_back(self, groups: Any) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...


class NoEngine:
    async def generate(self, input_ids: Any, sampling: SamplingConfig, **_: Any) -> Generation:
        raise AssertionError("no engine takes part")

    async def abort(self, rid: str) -> None: ...


def context(tokenizer: Any, data: Rows, *, n_samples: int, name: str, **of_data: Any) -> RolloutContext:
    config = RunConfig.model_validate(
        {
            "model": {"hf_checkpoint": "m"},
            "data": {"prompt_data": "d.jsonl", "label_key": "label", **of_data},
            "rollout": {"num_rollouts": 1, "rollout_batch_size": 3, "n_samples_per_prompt": n_samples},
            "algorithm": {"name": name},
        }
    )

    async def reward(sample: Sample) -> float | None:
        raise AssertionError("nothing is scored")

    return RolloutContext(
        config=config,
        data=data,
        client=NoEngine(),
        reward=reward,
        tokenizer=tokenizer,
        base_url="",
        weight_version=4,
        progress=lambda text: None,
    )


async def test_sft_fills_whole_samples_without_an_engine(tokenizer: Any) -> None:
    output = await sft_rollout(context(tokenizer, Rows("xy", "ab"), n_samples=1, name="sft"), 0)
    assert [len(group) for group in output.groups] == [1, 1, 1]
    [sample] = output.groups[0]
    assert sample.status is SampleStatus.COMPLETED
    assert tokenizer.decode(sample.tokens[2:]) == "ab<eos>"
    assert (sample.response_length, sample.loss_mask, sample.weight_versions) == (3, [1, 1, 1], [4, 4, 4])
    assert output.metrics["trained_length"] == 3


@pytest.mark.parametrize("in_label", [True, False])
async def test_dpo_makes_pairs_with_the_chosen_sample_first(tokenizer: Any, in_label: bool) -> None:
    pair = {"chosen": "ab", "rejected": "c"}
    rows = Rows("xy", pair) if in_label else Rows("xy", None, pair)
    output = await dpo_rollout(context(tokenizer, rows, n_samples=2, name="dpo"), 0)
    chosen, rejected = output.groups[1]
    assert [tokenizer.decode(each.tokens[2:]) for each in (chosen, rejected)] == ["ab<eos>", "c<eos>"]
    assert (chosen.reward, rejected.reward) == (1.0, 0.0)


async def test_the_chat_template_is_given_the_tools_of_the_row(tokenizer: Any) -> None:
    tokenizer.chat_template = WITH_TOOLS
    tools = {"tools": [{"name": "add"}]}
    given = context(tokenizer, Rows("xy", "ab", tools), n_samples=1, name="sft", apply_chat_template=True)
    [sample] = (await sft_rollout(given, 0)).groups[0]
    assert tokenizer.decode(sample.tokens) == "[add]<user>xy<assistant>ab<eos>"
    pair = Rows("xy", {"chosen": "ab", "rejected": "c"}, tools)
    given = context(tokenizer, pair, n_samples=2, name="dpo", apply_chat_template=True)
    for sample, answer in zip((await dpo_rollout(given, 0)).groups[0], ("ab", "c"), strict=True):
        assert tokenizer.decode(sample.tokens) == f"[add]<user>xy<assistant>{answer}<eos>"


async def test_a_row_without_a_pair_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataInvalid, match="'chosen' and 'rejected'"):
        await dpo_rollout(context(tokenizer, Rows("xy", "ab"), n_samples=2, name="dpo"), 0)


@pytest.mark.parametrize(
    ("check", "label", "message"),
    [
        (sft.check_row, "ab", None),
        (sft.check_row, None, None),
        (sft.check_row, [{"role": "assistant", "content": "ab"}], None),
        (sft.check_row, 7, "neither text nor a list of messages"),
        (sft.check_row, [{"content": "ab"}], "each with a 'role'"),
        (dpo.check_row, {"chosen": "a", "rejected": "b"}, None),
        (dpo.check_row, {"chosen": "a"}, "an object with 'chosen' and 'rejected'"),
        (dpo.check_row, {"chosen": "a", "rejected": 1}, "the answer is a int"),
    ],
)
def test_answers_of_another_form_are_named_by_their_row_before_a_run(
    tokenizer: Any, tmp_path: Path, check: Callable[[DataConfig], LabelCheck], label: Any, message: str | None
) -> None:
    tokenizer.chat_template = WITH_END
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"input": "xy", "label": label}) + "\n")
    config = DataConfig(prompt_data=str(path), label_key="label", apply_chat_template=True)
    with pytest.raises(DataInvalid, match=f"line 1: .*{message}") if message else contextlib.nullcontext():
        PromptData(config, tokenizer, check_label=check(config))
    with pytest.raises(ValueError, match=r"without data\.apply_chat_template it must be text"):
        sft.check_row(config.model_copy(update={"apply_chat_template": False}))(None, {})


@pytest.mark.parametrize(("name", "wanted"), [("sft", 1), ("dpo", 2)])
def test_a_wrong_number_of_samples_per_row_is_refused(tokenizer: Any, name: str, wanted: int) -> None:
    with pytest.raises(ValueError, match=f"n_samples_per_prompt must be {wanted}"):
        context(tokenizer, Rows("xy", "ab"), n_samples=4, name=name)
