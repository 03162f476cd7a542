"""A conversation with the policy, several turns long, that becomes one sample token for token.

conversation = Conversation.begin(context, sample, sampling)
turn = await conversation.generate()
if conversation.append_tool_result(calculate(turn.text)):
    await conversation.generate()
return conversation.finish()
"""

import asyncio
import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from engines.config import SamplingConfig
from engines.types import FinishReason, Sample, SampleStatus
from trainers.rollout.protocols import Generator, RolloutContext
from trainers.rollout.template import ChatTemplate, Message, TemplateUnstable
from trainers.rollout.transcript import Transcript

_ABORT_PAUSE_S = 0.05
_MAX_ABORT_PAUSE_S = 1.0


class ConversationOver(RuntimeError):
    """There is no room for another token: ``exhausted`` said so."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the policy said in one turn."""

    text: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: FinishReason
    """``stop``, or ``length`` where the turn's or the conversation's room ran out."""


class Conversation:
    """Appends, and never changes what it holds: what the policy samples is trained on, with the log-probabilities and
    the weight version it came with; what tools and users say is read and masked. Each is tokenised once, when it
    comes: a response is never turned to text and back.

    Use one for each sample, in one task.
    """

    def __init__(
        self,
        sample: Sample,
        *,
        client: Generator,
        sampling: SamplingConfig,
        template: ChatTemplate,
        messages: Sequence[Message],
        prompt_ids: Sequence[int],
        max_context_tokens: int | None,
        weight_version: int = 0,
        strict: bool = True,
    ) -> None:
        """``sampling.max_new_tokens`` bounds what is sampled in all turns together; ``max_context_tokens``, prompt and
        response. See :meth:`begin`."""
        if not prompt_ids:
            raise ValueError(f"sample {sample.index}: a conversation needs a prompt of at least one token")
        self._sample = sample
        self._client = client
        self._sampling = sampling
        self._template = template
        self._strict = strict
        self._max_context_tokens = max_context_tokens
        self._weight_version = weight_version
        self._transcript = Transcript(tuple(prompt_ids))
        self._messages: list[Message] = [dict(message) for message in messages]
        self._said: str | None = None
        """What the policy says in the turn that is open; None: nothing yet."""
        self._texts: list[str] = []
        self._rendered = False
        """Whether the prompt is known to be the chat template's."""
        self._cut = False
        """Whether the policy's last turn was cut."""
        self._others_spoke_last = False
        self._full = False
        """Whether something found no room."""
        self._finished = False

    @classmethod
    def begin(
        cls,
        context: RolloutContext,
        sample: Sample,
        sampling: SamplingConfig,
        *,
        messages: Sequence[Message] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_options: Mapping[str, Any] | None = None,
        max_context_tokens: int | None = None,
        strict: bool = True,
    ) -> Self:
        """A conversation that begins with the prompt of ``sample``, or with ``messages``.

        ``tools``: JSON schemas for the chat template; unset, those in the sample's metadata. ``max_context_tokens``: at
        most, and unset, the engines' context length. ``strict``: refuse a chat template that would render what is held
        differently later (:class:`trainers.rollout.template.TemplateUnstable`).
        """
        if sample.response_length:
            raise ValueError(f"sample {sample.index} has a response: a conversation begins with a prompt")
        config = context.config
        given: Any = messages if messages is not None else sample.prompt
        said: Sequence[Message] = [{"role": "user", "content": given}] if isinstance(given, str) else given
        options = dict(config.data.apply_chat_template_kwargs) | dict(template_options or {})
        own_tools = tools if tools is not None else sample.metadata.get("tools")
        template = ChatTemplate(context.tokenizer, own_tools, options)
        as_it_is = messages is None and tools is None and not template_options and sample.tokens
        return cls(
            sample,
            client=context.client,
            sampling=sampling,
            template=template,
            messages=said,
            prompt_ids=sample.prompt_tokens if as_it_is else template.prompt(said),
            max_context_tokens=min(
                (limit for limit in (max_context_tokens, context.context_length) if limit is not None), default=None
            ),
            weight_version=context.weight_version,
            strict=strict,
        )

    async def generate(self, *, max_new_tokens: int | None = None, stop: str | Sequence[str] | None = None) -> Turn:
        """Let the policy go on, until it stops or ``max_new_tokens`` (of this turn) are sampled. A response that is
        cut off for a weight update is continued. Raises :class:`ConversationOver` when ``exhausted``, and what the
        client raises."""
        self._open()
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ValueError(f"a turn of max_new_tokens = {max_new_tokens} has no token")
        if self.exhausted:
            raise ConversationOver(
                f"sample {self._sample.index}: no room for another token ({self._transcript.num_sampled} sampled of "
                f"{self._sampling.max_new_tokens}, {len(self._transcript)} held of {self._max_context_tokens})"
            )
        room = min(self.tokens_left, max_new_tokens or self.tokens_left)
        sampling = self._sampling_of_a_turn(room, stop)
        text, ids, log_probs, fruitless = "", list[int](), list[float](), 0
        while True:
            generation = await self._client.generate(
                self._transcript.tokens, sampling, rid=uuid.uuid4().hex, max_new_tokens=room - len(ids)
            )
            self._transcript.sampled(generation)
            text += generation.text
            ids += generation.output_ids
            log_probs += generation.log_probs
            reason = generation.finish_reason
            if reason is FinishReason.ABORT and len(ids) >= room:
                reason = FinishReason.LENGTH
            if reason is not FinishReason.ABORT:
                break
            if not generation.output_ids:
                # A paused engine may turn requests away for a while: do not spin. The rollout's deadline bounds this.
                await asyncio.sleep(min(_ABORT_PAUSE_S * 2**fruitless, _MAX_ABORT_PAUSE_S))
                fruitless = min(fruitless + 1, 10)
        self._said = (self._said or "") + self._spoken(text)
        self._texts.append(text)
        self._cut = reason is FinishReason.LENGTH
        self._others_spoke_last = False
        return Turn(text, tuple(ids), tuple(log_probs), reason)

    def append_messages(self, messages: Sequence[Message]) -> bool:
        """What others say, as the chat template renders it behind the policy's turn, with the beginning of its next
        one. False where there is no room: then nothing is appended, and the conversation is ``exhausted``.

        Raises ValueError (:class:`TemplateUnstable` is one) where the template cannot do that.
        """
        self._open()
        if self._said is None:
            raise ValueError("append_messages answers a turn of the policy: let it generate first")
        new = [dict(message) for message in messages]
        if not new:
            raise ValueError("append_messages needs at least one message")
        if self._strict and not self._rendered:
            self._check_prompt()
        text = self._template.after_turn(self._messages, self._said, new, strict=self._strict)
        ids = self._without_end(self._template.encode(text))
        if not self._observe(ids):
            return False
        self._texts.append(text)
        self._messages += [{"role": "assistant", "content": self._said}, *new]
        self._said = None
        return True

    def append_user(self, content: str) -> bool:
        """See :meth:`append_messages`."""
        return self.append_messages([{"role": "user", "content": content}])

    def append_tool_result(self, content: str, **fields: Any) -> bool:
        """``fields``: what else the template wants of a tool's message, such as ``name`` or ``tool_call_id``. See
        :meth:`append_messages`."""
        return self.append_messages([{"role": "tool", "content": content, **fields}])

    def append_text(self, text: str) -> bool:
        """Text within the policy's own turn, read and masked: for prompts without a chat template, and for results
        that stand in the middle of a turn. The policy goes on behind it."""
        self._open()
        if not self._observe(self._template.encode(text)):
            return False
        self._said = (self._said or "") + text
        self._texts.append(text)
        return True

    @property
    def tokens_left(self) -> int:
        """That can be sampled."""
        left = self._sampling.max_new_tokens - self._transcript.num_sampled
        if self._max_context_tokens is not None:
            left = min(left, self._max_context_tokens - len(self._transcript))
        return max(left, 0)

    @property
    def exhausted(self) -> bool:
        """Whether nothing more can be sampled."""
        return self._full or not self.tokens_left

    @property
    def tokens(self) -> list[int]:
        """All that is held, the prompt first."""
        return self._transcript.tokens

    @property
    def messages(self) -> list[Message]:
        """As the policy has read them, and what it says in the open turn."""
        open_turn = [] if self._said is None else [{"role": "assistant", "content": self._said}]
        return [*(dict(message) for message in self._messages), *open_turn]

    def finish(
        self,
        reward: float | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        status: SampleStatus | None = None,
    ) -> Sample:
        """The sample. Without ``reward`` it is scored like any other. ``status``: unset, ``truncated`` where the last
        turn was cut or there was no room left to answer, else ``completed``. One in which nothing was sampled has
        failed. The conversation is closed by it."""
        self._open()
        self._finished = True
        held = self._transcript
        if status is None:
            cut = self._full or (not self.tokens_left if self._others_spoke_last else self._cut)
            status = SampleStatus.TRUNCATED if cut else SampleStatus.COMPLETED
        if not held.num_sampled:
            status, reward = SampleStatus.FAILED, None
        return dataclasses.replace(
            self._sample,
            tokens=held.tokens,
            response="".join(self._texts),
            response_length=held.response_length,
            loss_mask=held.loss_mask,
            rollout_log_probs=held.log_probs,
            weight_versions=held.weight_versions,
            status=status,
            reward=reward if reward is not None else self._sample.reward,
            metadata={**self._sample.metadata, **(metadata or {})},
        )

    def branch(self) -> Self:
        """Another conversation that goes on from here, for a sample of its own: all that is held now is its prompt,
        so that no token is trained on twice. Return both samples from the generate function."""
        self._open()
        other = type(self)(
            dataclasses.replace(self._sample, metadata=dict(self._sample.metadata)),
            client=self._client,
            sampling=self._sampling,
            template=self._template,
            messages=self._messages,
            prompt_ids=self._transcript.tokens,
            max_context_tokens=self._max_context_tokens,
            weight_version=self._weight_version,
            strict=self._strict,
        )
        other._said = self._said
        other._rendered = True  # its prompt is a conversation by now
        return other

    def _observe(self, ids: Sequence[int]) -> bool:
        limit = self._max_context_tokens
        if limit is not None and len(self._transcript) + len(ids) >= limit:
            self._full = True  # no token could follow
            return False
        self._transcript.observed(ids, self._weight_version)
        self._others_spoke_last = True
        return True

    def _sampling_of_a_turn(self, room: int, stop: str | Sequence[str] | None) -> SamplingConfig:
        """The least that is to be sampled counts over all turns."""
        least = min(max(self._sampling.min_new_tokens - self._transcript.num_sampled, 0), room)
        changed: dict[str, Any] = {"min_new_tokens": least} if self._sampling.min_new_tokens else {}
        if stop is not None:
            changed["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        return self._sampling.model_copy(update=changed) if changed else self._sampling

    def _without_end(self, ids: list[int]) -> list[int]:
        """``ids`` without what the policy sampled of them: the token that ends its turn."""
        ended = self._transcript.last_sampled
        if ended is None or not ids or ids[0] != ended or not self._template.ends_a_turn(ended):
            return ids
        return ids[1:]

    def _spoken(self, text: str) -> str:
        """What the policy says, without the token that ends its turn, which the engine may be told to show."""
        ended = self._transcript.last_sampled
        if ended is None or not self._template.ends_a_turn(ended):
            return text
        return text.removesuffix(self._template.tokenizer.decode([ended], skip_special_tokens=False))

    def _check_prompt(self) -> None:
        if self._template.prompt(self._messages) != list(self._transcript.prompt):
            raise TemplateUnstable(
                f"sample {self._sample.index}: its prompt is not what the chat template makes of it: set "
                "data.apply_chat_template, or continue it with append_text"
            )
        self._rendered = True

    def _open(self) -> None:
        if self._finished:
            raise RuntimeError(f"sample {self._sample.index}: its conversation is finished")
