"""Responses that come with the data: tokenised with their loss masks, as if the policy had said them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from engines.types import Sample, SampleStatus
from trainers.errors import DataInvalid

type Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Response:
    """``tokens`` from ``start`` on are the response; ``loss_mask`` has one entry for each of those, 1 where the
    assistant speaks."""

    tokens: list[int]
    start: int
    loss_mask: list[int]


@dataclass(frozen=True, slots=True)
class ResponseTokenizer:
    """Turns a prompt and an answer of the data into a response."""

    tokenizer: Any
    """A Hugging Face tokenizer."""
    apply_chat_template: bool
    template_options: Mapping[str, Any]
    """Further arguments of the chat template."""

    def __call__(
        self,
        prompt: str | Messages,
        prompt_tokens: Sequence[int],
        answer: Any,
        *,
        where: str,
        tools: Sequence[Any] | None = None,
    ) -> Response:
        """``answer``: a string, the messages that follow the prompt, or None, when the prompt's own messages hold what
        the assistant says. ``prompt_tokens``: the prompt alone, used where no chat template is. ``tools``: for the chat
        template. Raises DataInvalid, beginning with ``where``."""
        try:
            check_answer(answer, apply_chat_template=self.apply_chat_template)
        except ValueError as error:
            raise DataInvalid(f"{where}: {error}") from None
        if not self.apply_chat_template:
            return self._plain(prompt_tokens, answer, where)
        messages: Messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if isinstance(answer, str):
            messages.append({"role": "assistant", "content": answer})
        else:
            messages += answer or []
        return self._conversation(messages, tools, where)

    def _plain(self, prompt_tokens: Sequence[int], answer: str, where: str) -> Response:
        response = list(self.tokenizer.encode(answer, add_special_tokens=False))
        if self.tokenizer.eos_token_id is not None:
            response.append(self.tokenizer.eos_token_id)
        if not response:
            raise DataInvalid(f"{where}: the answer has no tokens")
        return Response([*prompt_tokens, *response], len(prompt_tokens), [1] * len(response))

    def _conversation(self, messages: Messages, tools: Sequence[Any] | None, where: str) -> Response:
        turns = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        if not turns or turns[0] == 0:
            raise DataInvalid(f"{where}: the conversation needs a message of the assistant, and one before it")
        render = partial(self._render, tools=tools, where=where)
        tokens = render(messages, add_generation_prompt=False)
        mask = [0] * len(tokens)
        starts: list[int] = []
        for turn in turns:
            before = render(messages[:turn], add_generation_prompt=True)
            if tokens[: len(before)] != before:
                raise DataInvalid(
                    f"{where}: the chat template renders what comes before message {turn} differently once that is "
                    "there, so the assistant's tokens cannot be told from the others"
                )
            starts.append(len(before))
            after = render(messages[: turn + 1], add_generation_prompt=False)
            end = self._end(tokens, after, len(before))
            if end is None:
                raise DataInvalid(
                    f"{where}: in the chat template's rendering the end of message {turn} cannot be found"
                )
            mask[len(before) : end] = [1] * (end - len(before))
        last = max(i for i, bit in enumerate(mask) if bit) + 1
        return Response(tokens[:last], starts[0], mask[starts[0] : last])

    def _end(self, tokens: list[int], after: list[int], start: int) -> int | None:
        """Behind the last token of the turn that begins at ``start``: its end token, or where ``after``, the rendering
        of what has been said with it, ends."""
        stable = tokens[: len(after)] == after
        end, eos = len(after) if stable else len(tokens), self.tokenizer.eos_token_id
        if eos in tokens[start:end]:
            return tokens.index(eos, start) + 1
        return end if stable and end > start else None

    def _render(
        self, messages: Messages, *, tools: Sequence[Any] | None, where: str, add_generation_prompt: bool
    ) -> list[int]:
        try:
            found = self.tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=add_generation_prompt,
                tokenize=True,
                return_dict=False,
                **({} if tools is None else {"tools": list(tools)}),
                **self.template_options,
            )
        except Exception as error:  # a template is a program: Jinja's own errors, TypeError, ValueError, …
            raise DataInvalid(f"{where}: the tokenizer's chat template refuses it: {error}") from error
        return list(found)


def check_answer(answer: Any, *, apply_chat_template: bool) -> None:
    """Whether it is of a form that a response is made of. Raises ValueError."""
    if isinstance(answer, str):
        return
    if not apply_chat_template:
        raise ValueError(
            f"the answer is a {type(answer).__name__}: without data.apply_chat_template it must be text, under "
            "data.label_key"
        )
    if answer is None:
        return
    if not isinstance(answer, list):
        raise ValueError(f"the answer is a {type(answer).__name__}, neither text nor a list of messages")
    for message in cast("list[Any]", answer):
        if not isinstance(message, dict) or not isinstance(cast("dict[Any, Any]", message).get("role"), str):
            raise ValueError("the answer must be text, or a list of messages, each with a 'role'")


def fill(sample: Sample, response: Response, *, reward: float, weight_version: int) -> None:
    """Make it the sample's, complete. No engine sampled it: its log-probabilities there are 0 and mean nothing."""
    count = len(response.loss_mask)
    sample.tokens = list(response.tokens)
    sample.response_length = count
    sample.loss_mask = list(response.loss_mask)
    sample.rollout_log_probs = [0.0] * count
    sample.weight_versions = [weight_version] * count
    sample.reward = reward
    sample.status = SampleStatus.COMPLETED
