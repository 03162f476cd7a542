"""The loss of a micro-batch, as sums that add up over micro-batches and ranks, and what a step's sums mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from trainers.config import AlgorithmConfig, CISPOConfig, DPOConfig, GSPOConfig, PolicyGradientConfig, SFTConfig
from trainers.config.algorithm_parts import LossAggregation
from trainers.megatron.packing import MicroBatch
from trainers.megatron.signals import Signals
from trainers.megatron.users_formula import of_each_token
from trainers.plugins.check import check
from trainers.plugins.doors import DOORS
from trainers.rl.correction import masked_weights, off_policy_sequences, truncated_weights
from trainers.rl.doors import CustomLoss, LossInputs
from trainers.rl.kl import kl_estimate
from trainers.rl.losses import (
    cispo_loss,
    clipped_policy_loss,
    clipped_ratio_loss,
    dpo_loss,
    sequence_log_ratio,
    value_loss,
)
from trainers.rl.reduce import masked_sum, sample_sums, sum_of_sample_means, sum_of_weighted_samples

# A metric that is not listed is a mean over mask-1 tokens.
_PER_DENOMINATOR = ("loss", "pg_loss", "entropy", "kl_loss", "margin", "accuracy", "chosen_reward", "rejected_reward")
_TOTALS = ("mask_tokens", "tokens")


class Loss(Protocol):
    """``names`` are the sums that a call returns, the same for every call and on every rank."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def of_the_first(self) -> tuple[str, ...]:
        """Metrics that only the first step of a rollout can tell."""
        ...

    def __call__(self, outputs: Any, batch: MicroBatch, signals: Signals) -> tuple[Tensor, Tensor, Tensor]:
        """(summed loss with gradient, this micro-batch's part of the denominator (int), ``names`` as one tensor).

        The caller divides once by the whole step's denominator."""
        ...

    def metrics(self, total: Sequence[float]) -> dict[str, float]:
        """A step's metrics from the total of its sums. All ranks ask."""
        ...


@dataclass(frozen=True, slots=True)
class Aggregation:
    """How values of tokens become a sum, and how many things the sum is over."""

    kind: LossAggregation
    divisor: float | None = None

    def __call__(self, values: Tensor, batch: MicroBatch) -> Tensor:
        match self.kind:
            case "token_mean":
                return masked_sum(values, batch.loss_mask)
            case "sample_mean":
                return sum_of_sample_means(values, batch.loss_mask, batch.cu_responses)
            case "rollout_mean":
                return sum_of_weighted_samples(values, batch.loss_mask, batch.cu_responses, batch.trajectory_tokens)
            case "constant":
                assert self.divisor is not None
                return masked_sum(values, batch.loss_mask) / self.divisor

    def denominator(self, batch: MicroBatch) -> Tensor:
        match self.kind:
            case "token_mean":
                return batch.loss_mask.sum()
            case "rollout_mean":
                return batch.trajectory_heads.sum()
            case "sample_mean" | "constant":
                return batch.loss_mask.new_tensor(batch.num_samples)


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Of every algorithm that learns from rewards. ``outputs``: log-probabilities and entropy, [R] each."""

    algorithm: PolicyGradientConfig
    custom: CustomLoss | None = None

    @property
    def names(self) -> tuple[str, ...]:
        algorithm = self.algorithm
        return (
            *("loss", "pg_loss", "entropy", "clip_fraction", "ppo_kl", "log_prob_diff", "advantages"),
            *(("kl_loss", "kl") if _kl_in_loss(algorithm) else ()),
            *(("tis_weight", "tis_clipped_fraction") if algorithm.correction else ()),
            *(("opsm_fraction",) if algorithm.opsm else ()),
            *("denominator", "mask_tokens", "tokens"),
        )

    @property
    def of_the_first(self) -> tuple[str, ...]:
        """Without the trainer's own old log-probabilities, later steps see a policy that the engine never had."""
        return ("log_prob_diff",) if self.algorithm.use_rollout_log_probs else ()

    def __call__(
        self, outputs: tuple[Tensor, Tensor], batch: MicroBatch, signals: Signals
    ) -> tuple[Tensor, Tensor, Tensor]:
        algorithm, mask = self.algorithm, batch.loss_mask
        # Nor may a masked token spoil the gradient, whatever is made of it on the way: 0 · ∞ is not a number.
        log_probs, entropy = (torch.where(mask != 0, each, each.detach()) for each in outputs)
        trainers = log_probs.detach() if signals.old_log_probs is None else signals.old_log_probs
        old = batch.rollout_log_probs if algorithm.use_rollout_log_probs else trainers
        tokens: dict[str, Tensor] = {}
        per_token, tokens["clip_fraction"] = self._per_token(log_probs, entropy, old, batch, signals)
        if algorithm.opsm is not None:
            out = off_policy_sequences(
                log_probs, old, signals.advantages, mask, batch.cu_responses, delta=algorithm.opsm.delta
            )
            per_token, tokens["opsm_fraction"] = torch.where(out != 0, 0.0, per_token), out
        if (correction := algorithm.correction) is not None:
            weigh = truncated_weights if correction.method == "tis" else masked_weights
            weights, outside = weigh(
                trainers, batch.rollout_log_probs, clip_low=correction.clip_low, clip=correction.clip
            )
            per_token = per_token * weights
            tokens["tis_weight"], tokens["tis_clipped_fraction"] = weights, outside
        aggregate = aggregation_of(algorithm)
        found = {"pg_loss": aggregate(per_token, batch), "entropy": aggregate(entropy, batch)}
        loss = found["pg_loss"] - algorithm.entropy_coef * found["entropy"]
        if algorithm.kl is not None and algorithm.kl.loss_coef is not None:
            assert signals.ref_log_probs is not None
            tokens["kl"] = kl_estimate(
                log_probs,
                signals.ref_log_probs,
                estimator=algorithm.kl.estimator,
                importance_log_ratio=log_probs - old if algorithm.kl.use_unbiased else None,
            )
            found["kl_loss"] = aggregate(tokens["kl"], batch)
            loss = loss + algorithm.kl.loss_coef * found["kl_loss"]
        with torch.no_grad():
            tokens["ppo_kl"] = kl_estimate(old, log_probs, estimator="k1")
            tokens["log_prob_diff"] = (trainers - batch.rollout_log_probs).abs()
            tokens["advantages"] = signals.advantages
            denominator = aggregate.denominator(batch)
            found |= {name: masked_sum(values, mask) for name, values in tokens.items()}
            found |= {"loss": loss, "denominator": denominator} | counts_of(batch)
            return loss, denominator.to(torch.int), stacked(found, self.names)

    def _per_token(
        self, log_probs: Tensor, entropy: Tensor, old: Tensor, batch: MicroBatch, signals: Signals
    ) -> tuple[Tensor, Tensor]:
        """The policy loss of each token, and whether a clip decided it."""
        algorithm, advantages = self.algorithm, signals.advantages
        bounds = {"eps_clip": algorithm.eps_clip, "eps_clip_high": algorithm.clip_high}
        if self.custom is not None:
            inputs = LossInputs(
                log_probs=log_probs,
                entropy=entropy,
                old_log_probs=old,
                rollout_log_probs=batch.rollout_log_probs,
                ref_log_probs=signals.ref_log_probs,
                advantages=advantages,
                loss_mask=batch.loss_mask,
                cu_lengths=batch.cu_responses,
            )
            found = of_each_token(
                "algorithm.custom_loss", algorithm.custom_loss, self.custom, inputs, algorithm, like=log_probs
            )
            return found, torch.zeros_like(log_probs)
        if isinstance(algorithm, CISPOConfig):
            return cispo_loss(log_probs, old, advantages, **bounds)
        dual_clip: float | None = getattr(algorithm, "eps_clip_c", None)
        if isinstance(algorithm, GSPOConfig):
            log_ratio = sequence_log_ratio(log_probs, old, batch.loss_mask, batch.cu_responses)
            return clipped_ratio_loss(log_ratio, advantages, **bounds, eps_clip_c=dual_clip)
        return clipped_policy_loss(log_probs, old, advantages, **bounds, eps_clip_c=dual_clip)

    def metrics(self, total: Sequence[float]) -> dict[str, float]:
        return means_of(dict(zip(self.names, total, strict=True)))


@dataclass(frozen=True, slots=True)
class SFTLoss:
    """Negative log-likelihood of the responses. ``outputs`` as for :class:`PolicyLoss`."""

    algorithm: SFTConfig
    names: tuple[str, ...] = ("loss", "entropy", "log_likelihood", "denominator", "mask_tokens", "tokens")
    of_the_first: tuple[str, ...] = ()

    def __call__(
        self, outputs: tuple[Tensor, Tensor], batch: MicroBatch, signals: Signals
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_probs, entropy = outputs
        aggregate = aggregation_of(self.algorithm)
        loss = aggregate(-log_probs, batch)
        with torch.no_grad():
            denominator = aggregate.denominator(batch)
            found = {"loss": loss, "entropy": aggregate(entropy, batch), "denominator": denominator}
            found |= {"log_likelihood": masked_sum(log_probs, batch.loss_mask)} | counts_of(batch)
            return loss, denominator.to(torch.int), stacked(found, self.names)

    def metrics(self, total: Sequence[float]) -> dict[str, float]:
        return means_of(dict(zip(self.names, total, strict=True)))


@dataclass(frozen=True, slots=True)
class DPOLoss:
    """Over pairs: a micro-batch holds a chosen sample and its rejected one in turn. A pair of which one has no mask-1
    token teaches nothing and is not counted. ``outputs`` as for :class:`PolicyLoss`."""

    algorithm: DPOConfig
    names: tuple[str, ...] = (
        *("loss", "margin", "accuracy", "chosen_reward", "rejected_reward", "entropy"),
        *("denominator", "mask_tokens", "tokens"),
    )
    of_the_first: tuple[str, ...] = ()

    def __call__(
        self, outputs: tuple[Tensor, Tensor], batch: MicroBatch, signals: Signals
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_probs, entropy = outputs
        assert signals.ref_log_probs is not None
        mask, cu = batch.loss_mask, batch.cu_responses
        policy, reference = sample_sums(log_probs, mask, cu), sample_sums(signals.ref_log_probs, mask, cu)
        losses, margins = dpo_loss(
            policy[0::2],
            policy[1::2],
            reference[0::2],
            reference[1::2],
            beta=self.algorithm.beta,
            label_smoothing=self.algorithm.label_smoothing,
        )
        tokens = sample_sums(torch.ones_like(mask), mask, cu)
        whole = ((tokens[0::2] > 0) & (tokens[1::2] > 0)).to(losses.dtype)
        loss = (losses * whole).sum()
        with torch.no_grad():
            gains = self.algorithm.beta * (policy - reference)
            entropies = sample_sums(entropy, mask, cu) / tokens.clamp(min=1)
            denominator = whole.sum()
            found = {
                "loss": loss,
                "margin": (margins * whole).sum(),
                "accuracy": ((margins > 0) * whole).sum(),
                "chosen_reward": (gains[0::2] * whole).sum(),
                "rejected_reward": (gains[1::2] * whole).sum(),
                # Over pairs like the rest: the mean over both samples' tokens.
                "entropy": ((entropies[0::2] + entropies[1::2]) / 2 * whole).sum(),
                "denominator": denominator,
            } | counts_of(batch)
            return loss, denominator.to(torch.int), stacked(found, self.names)

    def metrics(self, total: Sequence[float]) -> dict[str, float]:
        return means_of(dict(zip(self.names, total, strict=True)))


@dataclass(frozen=True, slots=True)
class ValueLoss:
    """The critic's. ``outputs``: the value before each response token, [R]."""

    value_clip: float
    aggregation: Aggregation
    names: tuple[str, ...] = (
        *("loss", "value_clip_fraction", "values", "returns", "squared_returns", "errors", "squared_errors"),
        *("denominator", "mask_tokens", "tokens"),
    )
    of_the_first: tuple[str, ...] = ()

    def __call__(self, outputs: Tensor, batch: MicroBatch, signals: Signals) -> tuple[Tensor, Tensor, Tensor]:
        assert signals.values is not None
        assert signals.returns is not None
        per_token, clipped = value_loss(outputs, signals.values, signals.returns, value_clip=self.value_clip)
        loss = self.aggregation(per_token, batch)
        with torch.no_grad():
            errors = signals.returns - signals.values
            tokens = {
                "value_clip_fraction": clipped,
                "values": signals.values,
                "returns": signals.returns,
                "squared_returns": signals.returns.square(),
                "errors": errors,
                "squared_errors": errors.square(),
            }
            denominator = self.aggregation.denominator(batch)
            found = {name: masked_sum(values, batch.loss_mask) for name, values in tokens.items()}
            found |= {"loss": loss, "denominator": denominator} | counts_of(batch)
            return loss, denominator.to(torch.int), stacked(found, self.names)

    def metrics(self, total: Sequence[float]) -> dict[str, float]:
        """With the explained variance, 1 − Var(R − V) / Var(R): 1 is a perfect critic, 0 a constant one."""
        means = means_of(dict(zip(self.names, total, strict=True)))
        spread = means.pop("squared_returns") - means["returns"] ** 2
        unexplained = means.pop("squared_errors") - means.pop("errors") ** 2
        return means | {"explained_variance": 1 - unexplained / spread if spread > 1e-12 else 0.0}


def aggregation_of(algorithm: PolicyGradientConfig | SFTConfig) -> Aggregation:
    return Aggregation(algorithm.loss_aggregation, algorithm.loss_divisor)


def loss_of(algorithm: AlgorithmConfig) -> Loss:
    """The policy's loss. Raises PluginInvalid for a custom one that cannot be loaded."""
    if isinstance(algorithm, SFTConfig):
        return SFTLoss(algorithm)
    if isinstance(algorithm, DPOConfig):
        return DPOLoss(algorithm)
    return PolicyLoss(algorithm, _custom(algorithm.custom_loss))


def mean_over_steps(steps: Sequence[Mapping[str, float]], *, of_the_first: Sequence[str] = ()) -> dict[str, float]:
    """A rollout's metrics from those of its optimizer steps."""
    means = {name: sum(each[name] for each in steps) / len(steps) for name in steps[0] if name not in _TOTALS}
    means |= {name: steps[0][name] for name in of_the_first}
    return means | {name: sum(each[name] for each in steps) for name in _TOTALS}


def _custom(path: str | None) -> CustomLoss | None:
    return None if path is None else check(path, DOORS["custom_loss"]).target


def _kl_in_loss(algorithm: PolicyGradientConfig) -> bool:
    return algorithm.kl is not None and algorithm.kl.loss_coef is not None


def counts_of(batch: MicroBatch) -> dict[str, Tensor]:
    mask = batch.loss_mask
    return {"mask_tokens": mask.sum(), "tokens": mask.new_tensor(batch.num_tokens)}


def stacked(found: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([found[name].detach().double() for name in names])


def means_of(sums: dict[str, float]) -> dict[str, float]:
    denominator, mask_tokens = max(sums.pop("denominator"), 1.0), max(sums["mask_tokens"], 1.0)
    per: dict[str, float] = {**dict.fromkeys(_PER_DENOMINATOR, denominator), **dict.fromkeys(_TOTALS, 1.0)}
    return {name: value / per.get(name, mask_tokens) for name, value in sums.items()}
