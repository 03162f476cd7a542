"""What the samples of an eval set say about the policy: mean@k and pass@k, each with its uncertainty. Pure."""

import math
import statistics
from collections.abc import Sequence

# Two-sided 95 % of the normal distribution.
_Z = 1.959963984540054

ROUNDING = 1e-9
"""What sums of weighted rewards may differ by and be the same."""


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half the width of its 95 % confidence interval) of independent ``values``; the half width is NaN for
    fewer than two.

    Samples of one prompt are not independent: pass one value per prompt, as the clustered standard error of
    Miller 2024 (arXiv:2411.00640), §2.2, does for prompts with equally many samples.
    """
    if not values:
        return math.nan, math.nan
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, _Z * statistics.stdev(values) / math.sqrt(len(values))


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """The unbiased estimate of "at least one of k samples passes" from n samples of which c passed::

        1 − C(n − c, k) / C(n, k)

    Chen et al. 2021 (arXiv:2107.03374), eq. 1. Raises ValueError unless 1 ≤ k ≤ n and 0 ≤ c ≤ n.
    """
    if not (1 <= k <= num_samples and 0 <= num_passed <= num_samples):
        raise ValueError(f"pass@{k} of {num_samples} samples, {num_passed} passed")
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def ks_of(num_samples: int) -> list[int]:
    """The k that are worth reporting for n samples: powers of two below n, and n."""
    if not num_samples:
        return []
    return sorted({2**i for i in range(num_samples.bit_length())} | {num_samples})


def summarize(rewards: Sequence[Sequence[float]], *, pass_reward: float) -> dict[str, float]:
    """``rewards[p]`` are those of prompt p's samples. Gives ``reward`` (mean@n: the mean over prompts of the mean
    over samples), ``pass@k``, and for each the half width of its confidence interval as ``…_ci95``.

    Prompts without a sample count nowhere; for k above a prompt's number of samples the prompt is left out.
    """
    groups, least = [group for group in rewards if group], pass_reward - ROUNDING
    metrics: dict[str, float] = {}
    metrics["reward"], metrics["reward_ci95"] = mean_interval([statistics.fmean(group) for group in groups])
    for k in ks_of(max((len(group) for group in groups), default=0)):
        estimates = [
            pass_at_k(len(group), sum(reward >= least for reward in group), k) for group in groups if len(group) >= k
        ]
        metrics[f"pass@{k}"], metrics[f"pass@{k}_ci95"] = mean_interval(estimates)
    return metrics
