"""slime's ``Sample``: plain attributes that its functions may set in any order; checked when it comes back."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

from engines.types import Sample, SampleStatus
from trainers.errors import RolloutFailed


class _Status(Enum):
    PENDING = "pending"
    COMPLETED = "completed"
    TRUNCATED = "truncated"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass
class SlimeSample:
    """Also offered as ``slime.utils.types.Sample``. Other attributes may be set on it and are kept nowhere else."""

    group_index: int | None = None
    index: int | None = None
    prompt: str | list[dict[str, Any]] = ""
    tokens: list[int] = field(default_factory=list[int])
    response: str = ""
    response_length: int = 0
    label: Any = None
    reward: Any = None
    loss_mask: list[int] | None = None
    weight_versions: list[Any] = field(default_factory=list[Any])
    rollout_log_probs: list[float] | None = None
    remove_sample: bool = False
    status: _Status = _Status.PENDING
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    session_id: str | None = None
    rollout_id: int | None = None
    multimodal_inputs: dict[str, Any] | None = None
    generate_function_path: str | None = None
    train_metadata: dict[str, Any] | None = None

    @property
    def truncated(self) -> bool:
        return self.status is _Status.TRUNCATED

    @truncated.setter
    def truncated(self, value: bool) -> None:
        self._say(value, _Status.TRUNCATED)

    @property
    def aborted(self) -> bool:
        return self.status is _Status.ABORTED

    @aborted.setter
    def aborted(self, value: bool) -> None:
        self._say(value, _Status.ABORTED)

    def _say(self, value: bool, status: _Status) -> None:
        if value:
            self.status = status
        elif self.status in (_Status.PENDING, status):
            self.status = _Status.COMPLETED  # who says that it was not cut says that it ended

    @property
    def effective_response_length(self) -> int:
        return sum(self.loss_mask) if self.loss_mask is not None else self.response_length

    def get_reward_value(self, args: Any) -> Any:
        return self.reward[args.reward_key] if args.reward_key else self.reward

    def append_response_tokens(
        self,
        args: Any,
        *,
        tokens: Sequence[int],
        log_probs: Sequence[float] | None = None,
        trainable: bool = True,
        meta_info: dict[str, Any] | None = None,
        text: str | None = None,
    ) -> None:
        """Tokens behind those that are there: sampled ones with their log-probabilities, or, not ``trainable``, what
        a tool or a user said."""
        count = len(tokens)
        if trainable and (log_probs is None or len(log_probs) != count):
            raise ValueError(
                f"{count} sampled tokens came with {0 if log_probs is None else len(log_probs)} log-probabilities: "
                "send return_logprob and pass those of meta_info.output_token_logprobs"
            )
        before = self.response_length
        mask = [1] * before if self.loss_mask is None else list(self.loss_mask)
        held = [0.0] * before if self.rollout_log_probs is None else list(self.rollout_log_probs)
        self.tokens = [*self.tokens, *tokens]
        self.response_length = before + count
        self.loss_mask = [*mask, *([int(trainable)] * count)]
        self.rollout_log_probs = [*held, *(log_probs if trainable and log_probs is not None else [0.0] * count)]
        if text is not None:
            self.response += text
        if meta_info is not None:
            self.update_from_meta_info(args, meta_info)

    def update_from_meta_info(self, args: Any, meta_info: dict[str, Any]) -> None:
        """How the engine ended, and with which weights."""
        if "weight_version" in meta_info:
            self.weight_versions.append(meta_info["weight_version"])
        status = {"length": _Status.TRUNCATED, "abort": _Status.ABORTED, "stop": _Status.COMPLETED}
        self.status = status[meta_info["finish_reason"]["type"]]

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "status": self.status.value}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> SlimeSample:
        names = {each.name for each in dataclasses.fields(SlimeSample)}
        made = SlimeSample(**{key: value for key, value in data.items() if key in names})
        made.status = _Status(made.status)
        for key in data.keys() - names - {"truncated", "aborted"}:
            setattr(made, key, data[key])
        return made


SlimeSample.Status = _Status  # type: ignore[attr-defined]  # slime's own name for it


def to_slime(sample: Sample, prompt: str | None = None) -> SlimeSample:
    """``sample`` as slime's functions see it; lists are copies, so that only what comes back counts. ``prompt``: its
    rendered text, which is what a prompt is in slime where there is a chat template."""
    return SlimeSample(
        group_index=sample.group_index,
        index=sample.index,
        prompt=sample.prompt if prompt is None else prompt,
        tokens=list(sample.tokens),
        response=sample.response,
        response_length=sample.response_length,
        label=sample.label,
        reward=sample.reward,
        loss_mask=list(sample.loss_mask) if sample.response_length else None,
        weight_versions=list(sample.weight_versions),
        rollout_log_probs=list(sample.rollout_log_probs) if sample.response_length else None,
        status=_Status(sample.status.value),
        metadata=sample.metadata,
        session_id=sample.session_id,
        rollout_id=sample.trajectory_index,
    )


def from_slime(
    made: Any, original: Sample, *, name: str, weight_version: int, needs_log_probs: bool, reward_key: str | None = None
) -> Sample:
    """What the function ``name`` made of ``original``, as a sample of ours.

    slime lets a function leave out ``loss_mask`` (then all of the response is trained on), ``rollout_log_probs`` and
    the weight version of each token, which is ``weight_version`` then. Missing log-probabilities are 0 and mean
    nothing; where the job uses them (``needs_log_probs``) that is an error. Raises :class:`RolloutFailed` for a
    sample that contradicts itself.
    """
    if isinstance(made, Sample):
        return made
    if not hasattr(made, "response_length"):  # slime's own class, where slime is installed, will do
        raise RolloutFailed(f"{name} returned {type(made).__name__} for sample {original.index}: expected a Sample")

    def wrong(what: str) -> RolloutFailed:
        return RolloutFailed(f"{name}, sample {original.index}: {what}")

    try:
        tokens, count = list(map(operator.index, made.tokens)), operator.index(made.response_length)
        status = SampleStatus(getattr(made.status, "value", made.status))
    except (TypeError, ValueError) as error:
        raise wrong(
            f"tokens, response_length and status are token ids, a number and a Sample.Status: {error}"
        ) from None
    if not tokens and not count:
        tokens = original.prompt_tokens  # it gave up before the first token
    if not 0 <= count <= len(tokens):
        raise wrong(f"response_length is {count}, and there are {len(tokens)} tokens, the prompt's among them")
    mask = [1] * count if made.loss_mask is None else list(made.loss_mask)
    if len(mask) != count:
        raise wrong(f"loss_mask has {len(mask)} entries for response_length {count}")
    if not {0, 1}.issuperset(mask):
        raise wrong("loss_mask holds something other than 0 and 1: a token is trained on, or not")
    if getattr(made, "remove_sample", False):
        mask = [0] * count
    log_probs = getattr(made, "rollout_log_probs", None)
    if log_probs is None:
        if needs_log_probs and count:
            raise wrong(
                "rollout_log_probs is not set, and the algorithm's correction or use_rollout_log_probs needs it: send "
                "return_logprob and keep meta_info.output_token_logprobs"
            )
        log_probs = [0.0] * count
    if len(log_probs) != count:
        raise wrong(f"rollout_log_probs has {len(log_probs)} entries for response_length {count}")
    try:
        log_probs = list(map(float, log_probs))
    except (TypeError, ValueError) as error:
        raise wrong(f"rollout_log_probs: {error}") from None
    if status is SampleStatus.PENDING and count:
        status = SampleStatus.COMPLETED
    return dataclasses.replace(
        original,
        tokens=tokens,
        response=made.response or "",
        response_length=count,
        label=made.label,
        reward=number_of(made.reward, name=name, index=original.index, reward_key=reward_key),
        loss_mask=list(map(int, mask)),
        rollout_log_probs=log_probs,
        weight_versions=_versions(getattr(made, "weight_versions", ()), count, original, weight_version),
        status=status,
        metadata=made.metadata or {},
        session_id=getattr(made, "session_id", None),
        trajectory_index=original.trajectory_index if (shared := getattr(made, "rollout_id", None)) is None else shared,
    )


def number_of(reward: Any, *, name: str, index: int, reward_key: str | None = None) -> float | None:
    """slime's reward, a number or a dictionary of them, as a number."""
    if reward is None:
        return None
    expected, chosen = "a finite number", reward
    if isinstance(reward, dict):
        chosen = cast("dict[str, Any]", reward).get(reward_key or "", math.nan)
        expected = (
            f"one under {reward_key!r} (reward_key)" if reward_key else "one, or rollout.reward.reward_key to be set"
        )
    try:
        value = float(chosen)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise RolloutFailed(f"{name} gave sample {index} the reward {reward!r}: expected {expected}")
    return value


def _versions(found: Sequence[Any], count: int, original: Sample, weight_version: int) -> list[int]:
    """One per token: what was there before keeps its own, what is new has the version that is served."""
    if len(found) == count and {int}.issuperset(map(type, found)):
        return list(found)
    kept = original.weight_versions[:count]
    return [*kept, *([weight_version] * (count - len(kept)))]
