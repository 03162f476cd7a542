"""The loss of a micro-batch, as sums, and what a step's sums mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.config import GRPOConfig
from trainers.megatron.packing import MicroBatch
from trainers.rl.kl import kl_estimate
from trainers.rl.losses import clipped_policy_loss
from trainers.rl.reduce import masked_sum, sum_of_sample_means

# Sums over micro-batches and ranks, in this order, that the metrics are made of.
_SUMS = (
    "loss",
    "pg_loss",
    "entropy",
    "clip_fraction",
    "ppo_kl",
    "log_prob_diff",
    "denominator",
    "mask_tokens",
    "tokens",
)


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """GRPO's loss of a micro-batch, as sums: the caller divides once by the whole step's denominator."""

    algorithm: GRPOConfig

    def __call__(
        self, log_probs: Tensor, entropy: Tensor, batch: MicroBatch, old_log_probs: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(summed loss with gradient, this micro-batch's part of the denominator (int), ``_SUMS`` as one tensor).

        ``old_log_probs`` [R]; None: those of the first step are its own, and the ratio is 1.
        """
        algorithm, mask = self.algorithm, batch.loss_mask
        trainers = log_probs.detach() if old_log_probs is None else old_log_probs
        old = batch.rollout_log_probs if algorithm.use_rollout_log_probs else trainers
        per_token, clipped = clipped_policy_loss(
            log_probs,
            old,
            batch.advantages,
            eps_clip=algorithm.eps_clip,
            eps_clip_high=algorithm.clip_high,
            eps_clip_c=algorithm.eps_clip_c,
        )
        pg_loss, entropy_sum = self._aggregate(per_token, batch), self._aggregate(entropy, batch)
        loss = pg_loss - algorithm.entropy_coef * entropy_sum
        denominator = mask.sum() if algorithm.loss_aggregation == "token_mean" else mask.new_tensor(batch.num_samples)
        with torch.no_grad():
            sums = torch.stack(
                [
                    loss,
                    pg_loss,
                    entropy_sum,
                    masked_sum(clipped, mask),
                    masked_sum(kl_estimate(old, log_probs, estimator="k1"), mask),
                    masked_sum((trainers - batch.rollout_log_probs).abs(), mask),
                    denominator,
                    mask.sum(),
                    mask.new_tensor(batch.tokens.numel()),
                ]
            ).double()
        return loss, denominator.to(torch.int), sums

    def _aggregate(self, values: Tensor, batch: MicroBatch) -> Tensor:
        if self.algorithm.loss_aggregation == "token_mean":
            return masked_sum(values, batch.loss_mask)
        return sum_of_sample_means(values, batch.loss_mask, batch.cu_responses)


def means_of(total: Sequence[float]) -> dict[str, float]:
    """A step's metrics from the total of its ``_SUMS``."""
    sums = dict(zip(_SUMS, total, strict=True))
    denominator, mask_tokens = max(sums.pop("denominator"), 1.0), max(sums["mask_tokens"], 1.0)
    per = {"loss": denominator, "pg_loss": denominator, "entropy": denominator, "mask_tokens": 1.0, "tokens": 1.0}
    return {name: value / per.get(name, mask_tokens) for name, value in sums.items()}
