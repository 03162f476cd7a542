"""Which rule a sample is judged by: the job's, or the one that its metadata names (``rm_type``)."""

from collections.abc import Mapping
from typing import Any

from trainers.config.reward import (
    CodeRewardConfig,
    DAPORewardConfig,
    DeepscalerRewardConfig,
    ExactMatchRewardConfig,
    F1RewardConfig,
    GPQARewardConfig,
    LastNumberRewardConfig,
    MathRewardConfig,
    MetadataRewardConfig,
    ReasoningGymRewardConfig,
    RegexMatchRewardConfig,
    RewardConfig,
    RuleConfig,
)

_BOXED = "boxed_"
# Those that need nothing said but their name.
_NAMED = {
    "exact_match": ExactMatchRewardConfig,
    "regex_match": RegexMatchRewardConfig,
    "last_number": LastNumberRewardConfig,
    "f1": F1RewardConfig,
    "gpqa": GPQARewardConfig,
    "math": MathRewardConfig,
    "deepscaler": DeepscalerRewardConfig,
    "dapo": DAPORewardConfig,
    "reasoning_gym": ReasoningGymRewardConfig,
    "code": CodeRewardConfig,
}
_ALIASES = {"remote_rm": "remote"}


def named_rule(name: str) -> RuleConfig:
    """The rule of a name, as slime writes it (``boxed_f1``), with its defaults. Raises ValueError for a name that no
    rule has, or one that needs more said."""
    plain = name.removeprefix(_BOXED)
    kind = _NAMED.get(plain)
    if kind is None:
        raise ValueError(f'metadata["rm_type"] is {name!r}: expected one of {", ".join(_NAMED)}')
    if plain == name:
        return kind()
    if "boxed" not in kind.model_fields:
        raise ValueError(f'metadata["rm_type"] is {name!r}: {plain} finds its answer itself: leave out {_BOXED}')
    return kind.model_validate({"boxed": True})


def rule_of(config: RewardConfig, metadata: Mapping[str, Any]) -> RuleConfig | None:
    """What a sample is judged by under a shipped rule: the sample's own word wins, and what the job says of that very
    rule still holds. None when neither names one. Raises ValueError for a name that no rule has."""
    name = metadata.get("rm_type")
    if name is None or name == "":
        return None if isinstance(config, MetadataRewardConfig) else config  # pyright: ignore[reportReturnType]
    name = _ALIASES.get(str(name), str(name))
    own = f"{_BOXED}{config.type}" if getattr(config, "boxed", False) else config.type
    if name in (own, config.type) and not isinstance(config, MetadataRewardConfig):
        return config  # pyright: ignore[reportReturnType]
    return named_rule(name)
