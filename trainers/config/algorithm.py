"""What is optimised: one section per algorithm, told apart by its ``name``."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from engines.config import Section
from trainers.config.algorithm_parts import (
    CorrectionConfig,
    CriticConfig,
    Fraction,
    KLConfig,
    LossAggregation,
    OPSMConfig,
)


class _Aggregated(Section):
    loss_aggregation: LossAggregation = "sample_mean"
    loss_divisor: Annotated[float, Field(gt=0)] | None = None
    """Tokens that a sample's sum is divided by under ``constant``, say the longest response."""

    @model_validator(mode="after")
    def _divisor_belongs_to_constant(self) -> Self:
        if (self.loss_aggregation == "constant") != (self.loss_divisor is not None):
            raise ValueError("loss_divisor is required for loss_aggregation 'constant' and only allowed there")
        return self


class PolicyGradientConfig(_Aggregated):
    """What all algorithms that learn from rewards share."""

    kl_in_reward: ClassVar[bool] = False
    """Whether the advantages are made from token rewards, where a KL penalty can be."""

    eps_clip: Fraction = 0.2
    eps_clip_high: Fraction | None = None
    entropy_coef: float = 0.0
    kl: KLConfig | None = None
    """Unset: no reference model."""
    use_rollout_log_probs: bool = False
    """Take the engine's log-probabilities as the old policy's, in place of the trainer's own."""
    correction: CorrectionConfig | None = None
    opsm: OPSMConfig | None = None
    normalize_advantages: bool = False
    """Whiten the advantages over all mask-1 tokens of a rollout."""
    keep_old_actor: bool = False
    """Take the old policy's log-probabilities from the published weights that generated the rollout, where training
    has gone on since."""
    custom_loss: str | None = None
    """``package.module:function`` in place of the policy loss; see docs/algorithms.md."""
    custom_advantage: str | None = None
    """``package.module:function`` in place of the algorithm's advantages; see docs/algorithms.md."""

    @property
    def clip_high(self) -> float:
        return self.eps_clip if self.eps_clip_high is None else self.eps_clip_high

    @model_validator(mode="before")
    @classmethod
    def _kl_has_a_section(cls, data: Any) -> Any:
        if isinstance(data, dict) and "kl_coef" in data:
            why = (
                "kl_coef is written kl.reward_coef"
                if cls.kl_in_reward
                else "kl_coef puts a KL penalty into token rewards, but the advantage here is one number per sample "
                "and would not change: use kl.loss_coef, which puts it into the loss"
            )
            raise ValueError(why)
        return data  # pyright: ignore[reportUnknownVariableType]

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.kl is not None and self.kl.reward_coef is not None and not self.kl_in_reward:
            raise ValueError(
                "kl.reward_coef puts a KL penalty into token rewards, but the advantage here is one number per sample "
                "and would not change: use kl.loss_coef, which puts it into the loss"
            )
        if self.use_rollout_log_probs and self.correction is not None:
            raise ValueError(
                "use_rollout_log_probs makes the engine's log-probabilities the old policy's, which leaves nothing "
                "for correction to correct: take one of the two"
            )
        if self.use_rollout_log_probs and self.keep_old_actor:
            raise ValueError("use_rollout_log_probs and keep_old_actor both say whose log-probabilities are old")
        return self


class _DualClip(PolicyGradientConfig):
    eps_clip_c: Annotated[float, Field(gt=1)] | None = None
    """Dual clip: bounds the loss of a negative advantage at ``eps_clip_c`` times it."""


class _GroupRelative(PolicyGradientConfig):
    normalize_rewards: bool = True
    """Take rewards relative to their group's mean; if not, a sample's reward is its advantage."""
    normalize_std: bool = True
    """Divide by the group's standard deviation too."""

    @model_validator(mode="after")
    def _std_follows_rewards(self) -> Self:
        if self.normalize_std and not self.normalize_rewards:
            raise ValueError("normalize_std divides normalised rewards: without normalize_rewards set it to false too")
        return self


class GRPOConfig(_DualClip, _GroupRelative):
    """Group-relative policy optimisation with the clipped loss; no reference model unless asked for."""

    name: Literal["grpo"] = "grpo"


class DrGRPOConfig(_DualClip):
    """GRPO without the two divisions that favour some samples: by the group's standard deviation, and by a response's
    length, in place of which stands ``loss_divisor``."""

    name: Literal["dr_grpo"] = "dr_grpo"
    loss_aggregation: Literal["constant"] = "constant"  # pyright: ignore[reportIncompatibleVariableOverride]


class RLOOConfig(_DualClip):
    """Each sample against the mean of the others of its group."""

    name: Literal["rloo"] = "rloo"


class ReinforcePlusPlusConfig(_DualClip):
    """Discounted returns of token rewards, whitened over the batch; no groups."""

    kl_in_reward: ClassVar[bool] = True
    name: Literal["reinforce_plus_plus"] = "reinforce_plus_plus"
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    normalize_advantages: Literal[True] = True  # pyright: ignore[reportIncompatibleVariableOverride]


class ReinforcePlusPlusBaselineConfig(_DualClip):
    """The reward less its group's mean, less the KL penalty of each token, whitened over the batch."""

    kl_in_reward: ClassVar[bool] = True
    name: Literal["reinforce_plus_plus_baseline"] = "reinforce_plus_plus_baseline"
    normalize_rewards: bool = True
    normalize_advantages: Literal[True] = True  # pyright: ignore[reportIncompatibleVariableOverride]


class PPOConfig(_DualClip):
    """Generalised advantage estimates from a critic."""

    kl_in_reward: ClassVar[bool] = True
    name: Literal["ppo"] = "ppo"
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    lambd: Annotated[float, Field(ge=0, le=1)] = 1.0
    value_clip: Annotated[float, Field(gt=0)] = 0.2
    critic: CriticConfig = CriticConfig()


class GSPOConfig(_DualClip, _GroupRelative):
    """GRPO with one importance ratio per sample: the geometric mean of its tokens'."""

    name: Literal["gspo"] = "gspo"


class CISPOConfig(_GroupRelative):
    """The clipped ratio weighs the policy gradient, and no token loses its gradient to the clip."""

    name: Literal["cispo"] = "cispo"


class SFTConfig(_Aggregated):
    """Supervised fine-tuning: likelihood of the responses in the data."""

    name: Literal["sft"] = "sft"


class DPOConfig(Section):
    """Direct preference optimisation over groups of a chosen and a rejected sample."""

    name: Literal["dpo"] = "dpo"
    beta: Annotated[float, Field(gt=0)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Probability that a pair's labels are the wrong way round."""


def _name_of(value: Any) -> Any:
    """A section without a name is GRPO's."""
    return value.get("name", "grpo") if isinstance(value, dict) else getattr(value, "name", None)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


type AlgorithmConfig = Annotated[
    Annotated[GRPOConfig, Tag("grpo")]
    | Annotated[DrGRPOConfig, Tag("dr_grpo")]
    | Annotated[RLOOConfig, Tag("rloo")]
    | Annotated[ReinforcePlusPlusConfig, Tag("reinforce_plus_plus")]
    | Annotated[ReinforcePlusPlusBaselineConfig, Tag("reinforce_plus_plus_baseline")]
    | Annotated[PPOConfig, Tag("ppo")]
    | Annotated[GSPOConfig, Tag("gspo")]
    | Annotated[CISPOConfig, Tag("cispo")]
    | Annotated[SFTConfig, Tag("sft")]
    | Annotated[DPOConfig, Tag("dpo")],
    Discriminator(
        _name_of,
        custom_error_type="unknown_algorithm",
        custom_error_message="name must be one of grpo, dr_grpo, rloo, reinforce_plus_plus, "
        "reinforce_plus_plus_baseline, ppo, gspo, cispo, sft, dpo",
    ),
]


def needs_reference(algorithm: AlgorithmConfig) -> bool:
    return isinstance(algorithm, DPOConfig) or (
        isinstance(algorithm, PolicyGradientConfig) and algorithm.kl is not None
    )


def samples_per_row(algorithm: AlgorithmConfig) -> int | None:
    """Samples that a row of the data holds itself; None: they are generated, as many as the job says."""
    return {"sft": 1, "dpo": 2}.get(algorithm.name)


def rollout_function_of(algorithm: AlgorithmConfig) -> str | None:
    """The shipped rollout function that brings what the algorithm trains on without an engine, a reward or weight
    sync; None: samples are generated."""
    return {"sft": "trainers.rollout.sft:sft_rollout", "dpo": "trainers.rollout.dpo:dpo_rollout"}.get(algorithm.name)
