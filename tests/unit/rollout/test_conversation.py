"""A conversation appends, and what it holds is what the engine sampled and what others said, told apart."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.config import EngineConfig, SamplingConfig
from engines.types import FinishReason, Generation, Sample, SampleStatus
from tests.unit.rollout import scripted
from trainers.rollout.conversation import Conversation, ConversationOver
from trainers.rollout.template import ChatTemplate, TemplateUnstable

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = CHATML.replace(
    "m['content']", "(m['content'].split('</think>')[-1] if loop.revindex > 1 else m['content'])"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")


class Characters:
    """One token a character, and one for each special."""

    eos_token_id = 1
    all_special_ids = (0, 1)

    def __init__(self, template: str = CHATML) -> None:
        self._template = jinja2.Environment().from_string(template)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        while text:
            special = next((s for s in SPECIAL if text.startswith(s)), None)
            ids.append(SPECIAL.index(special) if special else ord(text[0]))
            text = text[len(special) if special else 1 :]
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(("" if skip_special_tokens else SPECIAL[i]) if i < len(SPECIAL) else chr(i) for i in ids)

    def apply_chat_template(self, messages: Any, *, tools: Any, add_generation_prompt: bool, tokenize: bool) -> str:
        assert not tokenize
        return self._template.render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)


@dataclass
class Engine:
    """Says what it is told to, ends with <|im_end|> where there is room, and is cut where ``cuts`` says so."""

    lines: list[str]
    cuts: list[int] = field(default_factory=list[int])
    version: int = 3
    prompts: list[list[int]] = field(default_factory=list[list[int]])
    pending: list[int] = field(default_factory=list[int])
    stops: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingConfig, *, rid: str, max_new_tokens: int | None = None
    ) -> Generation:
        self.prompts.append(list(input_ids))
        self.stops.append(sampling.stop)
        budget = sampling.max_new_tokens if max_new_tokens is None else max_new_tokens
        assert budget > 0
        left = self.pending or [*Characters().encode(self.lines.pop(0)), 1]
        cut = min(self.cuts.pop(0) if self.cuts else len(left), budget)
        ids, self.pending = left[:cut], left[cut:]
        self.version += 1
        if ids and ids[-1] == 1:
            reason = FinishReason.STOP
        elif len(ids) == budget:
            reason, self.pending = FinishReason.LENGTH, []
        else:
            reason = FinishReason.ABORT
        text = Characters().decode(ids, skip_special_tokens=True)
        return Generation(rid, ids, [-i / 1000 for i in ids], reason, self.version, text)

    async def abort(self, rid: str) -> None: ...


def begun(
    engine: Engine,
    *,
    template: str = CHATML,
    max_new_tokens: int = 1000,
    context: int | None = None,
    strict: bool = True,
) -> Conversation:
    tokenizer = Characters(template)
    messages = [{"role": "user", "content": "hi"}]
    chat = ChatTemplate(tokenizer)
    sample = Sample(index=7, group_index=2, prompt="hi", metadata={"kept": 1})
    return Conversation(
        sample,
        client=engine,
        sampling=SamplingConfig(max_new_tokens=max_new_tokens),
        template=chat,
        messages=messages,
        prompt_ids=chat.prompt(messages),
        max_context_tokens=context,
        strict=strict,
    )


async def test_a_conversation_is_what_the_template_renders_with_the_policys_words_trained_on_alone() -> None:
    engine = Engine(["one", "two"])
    talk = begun(engine)
    first = await talk.generate()
    assert (first.text, first.finish_reason) == ("one", FinishReason.STOP)
    assert talk.append_tool_result("4")
    await talk.generate()
    sample = talk.finish(reward=0.5, metadata={"tool": True})

    text = Characters().decode(sample.tokens)
    assert text == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
        "<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>"
    )
    response = sample.tokens[-sample.response_length :]
    trained = Characters().decode([i for i, bit in zip(response, sample.loss_mask, strict=True) if bit])
    assert trained == "one<|im_end|>two<|im_end|>"
    assert [v for v, bit in zip(sample.rollout_log_probs, sample.loss_mask, strict=True) if bit] == [
        -i / 1000 for i in Characters().encode("one<|im_end|>two<|im_end|>")
    ]
    assert (sample.status, sample.reward, sample.metadata) == (
        SampleStatus.COMPLETED,
        0.5,
        {"kept": 1, "tool": True},
    )
    assert engine.prompts[1] == sample.tokens[: len(engine.prompts[1])]
    assert (sample.index, sample.group_index) == (7, 2)


async def test_a_turn_that_was_cut_is_ended_by_the_template_and_not_trained_on() -> None:
    engine = Engine(["abcdef", "x"])
    talk = begun(engine)
    turn = await talk.generate(max_new_tokens=3)
    assert (turn.text, turn.finish_reason) == ("abc", FinishReason.LENGTH)
    talk.append_user("go on")
    await talk.generate()
    sample = talk.finish()
    response = sample.tokens[-sample.response_length :]
    assert Characters().decode(response).startswith("abc<|im_end|>\n<|im_start|>user\ngo on")
    assert sample.loss_mask[:4] == [1, 1, 1, 0]


async def test_a_turn_may_stop_at_one_text_or_several_and_has_a_token_at_least() -> None:
    engine = Engine(["a", "b"])
    talk = begun(engine)
    await talk.generate(stop="</tool>")
    talk.append_user("go on")
    await talk.generate(stop=["x", "yz"])
    assert engine.stops == [("</tool>",), ("x", "yz")]
    with pytest.raises(ValueError, match="max_new_tokens = 0 has no token"):
        await talk.generate(max_new_tokens=0)


async def test_a_response_cut_for_a_weight_update_goes_on_with_each_tokens_own_version() -> None:
    engine = Engine(["abcdef"], cuts=[2, 3])
    turn = await (talk := begun(engine)).generate()
    assert turn.text == "abcdef"
    sample = talk.finish()
    assert sample.weight_versions == [4, 4, 5, 5, 5, 6, 6]
    assert sample.loss_mask == [1] * 7


async def test_text_within_a_turn_is_read_and_masked() -> None:
    engine = Engine(["2+2", "ok"])
    talk = begun(engine)
    await talk.generate(max_new_tokens=3)
    assert talk.append_text("=4;")
    await talk.generate()
    sample = talk.finish()
    assert sample.response == "2+2=4;ok"
    assert sample.loss_mask == [1, 1, 1, 0, 0, 0, 1, 1, 1]
    assert talk.messages[-1] == {"role": "assistant", "content": "2+2=4;ok"}


async def test_a_template_that_forgets_what_was_said_is_refused_unless_that_is_meant() -> None:
    said = "<think>hm</think>yes"
    talk = begun(Engine([said]), template=FORGETFUL)
    await talk.generate()
    with pytest.raises(TemplateUnstable, match=r"changes part of what the assistant said once user follows.*strict"):
        talk.append_user("sure?")
    loose = begun(Engine([said, "yes"]), template=FORGETFUL, strict=False)
    await loose.generate()
    assert loose.append_user("sure?")
    assert said in Characters().decode(loose.tokens)


async def test_a_template_that_rewrites_history_is_refused() -> None:
    counting = CHATML.replace("<|im_start|>{{ m['role'] }}", "<|im_start|>{{ messages|length }}{{ m['role'] }}", 1)
    talk = begun(Engine(["a"]), template=counting)
    await talk.generate()
    with pytest.raises(TemplateUnstable, match="renders what came before a turn of the assistant differently"):
        talk.append_user("b")


async def test_a_prompt_that_no_template_made_is_continued_with_text_alone() -> None:
    talk = begun(Engine(["a"]))
    talk._transcript = type(talk._transcript)((65, 66))
    await talk.generate()
    with pytest.raises(TemplateUnstable, match=r"set data\.apply_chat_template, or continue it with append_text"):
        talk.append_user("b")


async def test_what_finds_no_room_is_not_appended_and_the_sample_is_truncated() -> None:
    talk = begun(Engine(["abc"]), context=60)
    await talk.generate()
    before = talk.tokens
    assert not talk.append_user("x" * 50)
    assert talk.tokens == before
    assert talk.exhausted
    with pytest.raises(ConversationOver, match="sample 7: no room for another token"):
        await talk.generate()
    assert talk.finish().status is SampleStatus.TRUNCATED


@pytest.mark.parametrize(("asked", "left"), [(None, 5), (4, 2), (100, 5)])
def test_no_conversation_is_longer_than_the_engines_take(asked: int | None, left: int) -> None:
    whole = scripted.context(scripted.Engine())
    engine = EngineConfig(sglang={"context_length": 7 + 6})  # SGLang keeps six back
    told = replace(whole, config=whole.config.model_copy(update={"engine": engine}))
    sample = Sample(index=0, group_index=0, prompt="p", tokens=[9, 10])
    talk = Conversation.begin(told, sample, SamplingConfig(), max_context_tokens=asked)
    assert talk.tokens_left == left


async def test_nothing_said_is_a_failed_sample() -> None:
    sample = begun(Engine([])).finish(reward=1.0)
    assert (sample.status, sample.reward, sample.response_length) == (SampleStatus.FAILED, None, 0)


async def test_a_finished_conversation_takes_no_more() -> None:
    talk = begun(Engine(["a", "b"]))
    await talk.generate()
    talk.finish()
    with pytest.raises(RuntimeError, match="is finished"):
        talk.append_text("x")
    with pytest.raises(RuntimeError, match="is finished"):
        await talk.generate()


async def test_a_branch_trains_on_no_token_twice() -> None:
    talk = begun(Engine(["a", "b", "c"]))
    await talk.generate()
    other = talk.branch()
    assert talk.append_user("left")
    assert other.append_user("right")
    await talk.generate()
    await other.generate()
    one, two = talk.finish(), other.finish()
    assert Characters().decode(two.tokens[-two.response_length :]).endswith("c<|im_end|>")
    assert sum(one.loss_mask) == 4
    assert sum(two.loss_mask) == 2
    assert two.prompt_tokens == one.tokens[: len(two.prompt_tokens)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("generate"), st.integers(1, 6)),
        st.tuples(st.just("user"), st.text("ab <>\n", max_size=5)),
        st.tuples(st.just("tool"), st.text("01", max_size=5)),
        st.tuples(st.just("text"), st.text("xy", max_size=4)),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(
    steps=STEPS,
    lines=st.lists(st.text("abc", min_size=1, max_size=6), min_size=12, max_size=12),
    cuts=st.lists(st.integers(1, 4), max_size=8),
    budget=st.integers(1, 30),
    context=st.one_of(st.none(), st.integers(45, 160)),
)
def test_ids_held_never_change_and_each_has_its_bit_log_prob_and_version(
    steps: list[tuple[str, Any]], lines: list[str], cuts: list[int], budget: int, context: int | None
) -> None:
    engine = Engine(list(lines), list(cuts))
    talk = begun(engine, max_new_tokens=budget, context=context)
    sampled: list[tuple[int, float]] = []

    async def play() -> None:
        turns = 0
        for kind, what in steps:
            before = talk.tokens
            if kind == "generate" and not talk.exhausted:
                turn = await talk.generate(max_new_tokens=what)
                sampled.extend(zip(turn.token_ids, turn.log_probs, strict=True))
                turns += 1
            elif kind == "text":
                talk.append_text(what)
            elif turns and talk._said is not None and kind in ("user", "tool"):
                appended = talk.append_user(what) if kind == "user" else talk.append_tool_result(what)
                assert appended == (len(talk.tokens) > len(before))
            assert talk.tokens[: len(before)] == before
            if context is not None:
                assert len(talk.tokens) <= context

    asyncio.run(play())
    sample = talk.finish()
    count = sample.response_length
    assert len(sample.loss_mask) == len(sample.rollout_log_probs) == len(sample.weight_versions) == count
    response = sample.tokens[len(sample.tokens) - count :]
    rows = list(zip(response, sample.rollout_log_probs, sample.loss_mask, strict=True))
    assert [(token, log_prob) for token, log_prob, bit in rows if bit] == sampled
    assert all(log_prob == 0.0 for _, log_prob, bit in rows if not bit)
    assert len(sampled) <= budget
    assert sample.weight_versions == sorted(sample.weight_versions)
    assert (sample.status is SampleStatus.FAILED) == (not sampled)
