"""What a chat template says after a turn of the assistant, as text that continues what is held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

type Message = Mapping[str, Any]

# Unlikely in a conversation, and of characters that no template treats in its own way.
_MARK = "turn0of0the0assistant"


class TemplateUnstable(ValueError):
    """The chat template renders what is held differently once more is said, so nothing can be appended to it."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A tokenizer's chat template, with what it is always given."""

    tokenizer: Any
    """A Hugging Face tokenizer."""
    tools: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of ``messages`` and the beginning of the assistant's turn."""
        return self.encode(self._text(messages, add_generation_prompt=True))

    def after_turn(self, messages: Sequence[Message], said: str, new: Sequence[Message], *, strict: bool) -> str:
        """The text between what the assistant ``said`` after ``messages`` and its next turn, with the ``new`` messages
        in it. Begins with whatever ends a turn, which may have been sampled.

        Raises :class:`TemplateUnstable` where the template changes what stands before it; unless ``strict``, only
        where the place of the turn cannot be found.
        """
        marked = self._text([*messages, _turn(_MARK), *new], add_generation_prompt=True)
        before, found, after = marked.rpartition(_MARK)
        if not found or _MARK in before:
            raise TemplateUnstable(
                "the chat template does not render a turn of the assistant as it is said, so what follows it cannot be "
                "told: append text of your own with append_text"
            )
        if strict:
            self._check(messages, said, new, before, after)
        return after

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def ends_a_turn(self, token_id: int) -> bool:
        """Whether a turn ends with this token, and not with text."""
        return token_id == self.tokenizer.eos_token_id or token_id in self.tokenizer.all_special_ids

    def _check(self, messages: Sequence[Message], said: str, new: Sequence[Message], before: str, after: str) -> None:
        held = self._text(messages, add_generation_prompt=True)
        roles = ", ".join(str(message.get("role")) for message in new)
        why = (
            "so the policy would be trained on another conversation than the template renders; where that is meant, "
            "begin the conversation with strict=False"
        )
        if before != held:
            at = next((i for i, pair in enumerate(zip(before, held, strict=False)) if pair[0] != pair[1]), None)
            where = f": {held[max(0, (at or 0) - 20) :][:60]!r} has become {before[max(0, (at or 0) - 20) :][:60]!r}"
            raise TemplateUnstable(
                f"the chat template renders what came before a turn of the assistant differently once {roles} "
                f"follows{where}, {why}"
            )
        whole = self._text([*messages, _turn(said), *new], add_generation_prompt=True)
        middle = whole[len(held) : len(whole) - len(after)]
        if not (whole.startswith(held) and whole.endswith(after)) or middle.strip() != said.strip():
            raise TemplateUnstable(
                f"the chat template leaves out or changes part of what the assistant said once {roles} follows "
                f"({said[:60]!r} has become {middle[:60]!r}), {why}"
            )

    def _text(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in self.tools] if self.tools else None,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **self.options,
            )
        except Exception as error:  # a template is a program: Jinja's own errors, TypeError, ValueError, …
            raise ValueError(f"the tokenizer's chat template refuses the messages: {error}") from error
        return str(text)


def _turn(said: str) -> Message:
    return {"role": "assistant", "content": said}
