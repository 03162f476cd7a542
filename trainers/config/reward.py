"""How samples are scored: one section per rule, told apart by its ``type``; see docs/rewards.md."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from engines.config import Positive, Seconds, Section


class _Reward(Section):
    timeout_s: Seconds = 60.0
    """For one sample; later is a reward of 0 for a shipped rule's slip, a failed sample for a custom or remote one."""


class _Extracted(_Reward):
    boxed: bool = False
    """Judge what stands in the last ``\\boxed{}`` of the response, in place of all of it; without one the reward
    is 0."""


class _Isolated(_Reward):
    allow_network: bool = False
    """Run also where the machine offers no isolation (no network, no files): with resource limits alone."""


class ExactMatchRewardConfig(_Extracted):
    """The response is the label."""

    type: Literal["exact_match"] = "exact_match"


class RegexMatchRewardConfig(_Extracted):
    """The label is a regular expression that matches all of the response."""

    type: Literal["regex_match"] = "regex_match"


class LastNumberRewardConfig(_Extracted):
    """The last number of the response is the label's."""

    type: Literal["last_number"] = "last_number"


class F1RewardConfig(_Extracted):
    """SQuAD's F1 of the response's and the label's words."""

    type: Literal["f1"] = "f1"


class GPQARewardConfig(_Extracted):
    """The response names the right choice."""

    type: Literal["gpqa"] = "gpqa"


class MathRewardConfig(_Reward):
    """The last ``\\boxed{}`` equals the label, as math-verify sees it."""

    type: Literal["math"] = "math"
    workers: Positive = 4
    """Processes that judge, at most; each is started when it is first needed."""


class DeepscalerRewardConfig(_Reward):
    """As ``math``, in what follows the thoughts; without ``</think>`` the reward is 0."""

    type: Literal["deepscaler"] = "deepscaler"
    workers: Positive = 4


class DAPORewardConfig(_Reward):
    """DAPO's rule: what follows the last "Answer:" equals the label."""

    type: Literal["dapo"] = "dapo"
    reward_key: Literal["score", "acc"] = "score"
    """``score`` is 1 or −1, ``acc`` is 1 or 0."""
    strict_box: bool = False
    """The answer is the last ``\\boxed{}`` in the last 100 characters, letter for letter."""


class ReasoningGymRewardConfig(_Isolated):
    """``score_answer`` of a data set of reasoning-gym, with the entry that the sample's metadata holds."""

    type: Literal["reasoning_gym"] = "reasoning_gym"
    task: str | None = None
    """The data set's name. Unset: each sample's metadata names it (``source_dataset``)."""
    workers: Positive = 2


class CodeRewardConfig(_Isolated):
    """The last Python block of the response passes the tests that the sample's metadata holds."""

    type: Literal["code"] = "code"
    scoring: Literal["all", "fraction"] = "all"
    """1 when every test passes, or the fraction that does."""
    case_timeout_s: Seconds = 5.0
    """Wall and processor time of one test."""
    memory_mb: Positive = 512
    """Address space of one process."""
    file_mb: Positive = 16
    """All files that one test writes, in memory."""
    max_processes: Positive = 8
    """Processes and threads of one test."""
    max_output_kb: Positive = 1024
    concurrency: Positive = 4
    """Tests that run at once."""


class RemoteRewardConfig(_Reward):
    """A service judges: ``POST`` of prompt, response, label and metadata to a URL."""

    type: Literal["remote"] = "remote"
    timeout_s: Seconds = 300.0
    """For one sample, tries again included: a service may be away for as long."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+")]
    reward_key: str | None = None
    """The reward's key when the service answers with an object."""
    batch_size: Positive | None = None
    """Unset: one sample a request, as slime asks. Set: up to this many as ``{"samples": […]}``, which are answered by
    ``{"rewards": […]}``."""
    max_concurrency: Positive = 64
    """Requests in flight."""
    max_retries: Annotated[int, Field(ge=0)] | None = None
    """After a lost connection or a status of 429 or 5xx; unset, for as long as ``timeout_s``, which bounds all of them
    together."""


class CustomRewardConfig(_Reward):
    """A user's own function."""

    type: Literal["custom"] = "custom"
    function: str
    """``package.module:function``."""
    reward_key: str | None = None
    """The reward's key when the function returns a dict."""
    group_rm: bool = False
    """The function takes the list of a whole group's samples and returns as many rewards."""

    @property
    def by_group(self) -> bool:
        return self.group_rm


class MetadataRewardConfig(_Reward):
    """Each sample's ``metadata["rm_type"]`` names its rule."""

    type: Literal["from_metadata"] = "from_metadata"


_Rule = (
    Annotated[ExactMatchRewardConfig, Tag("exact_match")]
    | Annotated[RegexMatchRewardConfig, Tag("regex_match")]
    | Annotated[LastNumberRewardConfig, Tag("last_number")]
    | Annotated[F1RewardConfig, Tag("f1")]
    | Annotated[GPQARewardConfig, Tag("gpqa")]
    | Annotated[MathRewardConfig, Tag("math")]
    | Annotated[DeepscalerRewardConfig, Tag("deepscaler")]
    | Annotated[DAPORewardConfig, Tag("dapo")]
    | Annotated[ReasoningGymRewardConfig, Tag("reasoning_gym")]
    | Annotated[CodeRewardConfig, Tag("code")]
    | Annotated[RemoteRewardConfig, Tag("remote")]
    | Annotated[CustomRewardConfig, Tag("custom")]
)

_RULES = "exact_match, regex_match, last_number, f1, gpqa, math, deepscaler, dapo, reasoning_gym, code, remote, custom"


def _type_of(value: Any) -> Any:
    """The rule that a section asks for; an old spec may leave it out."""
    return value.get("type", "exact_match") if isinstance(value, dict) else getattr(value, "type", None)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


type RuleConfig = Annotated[
    _Rule,
    Discriminator(_type_of, custom_error_type="unknown_reward", custom_error_message=f"type must be one of {_RULES}"),
]


class WeightedPart(Section):
    """One rule of a sum."""

    name: Annotated[str, Field(min_length=1)]
    """Its value's key in ``metadata["rewards"]``."""
    weight: float
    reward: RuleConfig


class WeightedRewardConfig(_Reward):
    """The weighted sum of several rules; their own values are kept in ``metadata["rewards"]``."""

    type: Literal["weighted"] = "weighted"
    parts: tuple[WeightedPart, ...]

    @model_validator(mode="after")
    def _parts_can_be_summed(self) -> Self:
        if not self.parts:
            raise ValueError("reward.parts is empty: a sum needs at least one part")
        names = [part.name for part in self.parts]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"reward.parts: two are named {twice!r}")
        if any(isinstance(part.reward, CustomRewardConfig) and part.reward.group_rm for part in self.parts):
            raise ValueError("reward.parts: a function of whole groups (group_rm) cannot be part of a sum")
        if not math.isfinite(sum(abs(part.weight) for part in self.parts)):
            raise ValueError("reward.parts: the weights are too large")
        return self


type RewardConfig = Annotated[
    _Rule | Annotated[MetadataRewardConfig, Tag("from_metadata")] | Annotated[WeightedRewardConfig, Tag("weighted")],
    Discriminator(
        _type_of,
        custom_error_type="unknown_reward",
        custom_error_message=f"type must be one of {_RULES}, weighted, from_metadata",
    ),
]
