"""From rewards to advantages.

Values of tokens are packed: a tensor of shape [T] holds the responses of N samples, one after the other, and sample i
is ``[cu_lengths[i]:cu_lengths[i + 1]]``; ``cu_lengths`` has shape [N + 1], from 0 to T. A mask of 1 counts.
"""

from typing import cast

import torch
from torch import Tensor

from trainers.rl.reduce import sample_of_token

STD_EPSILON = 1e-6


def group_normalize(rewards: Tensor, group_ids: Tensor, *, normalize_std: bool) -> Tensor:
    """Each reward relative to its group: r − mean, and divided by (std + 1e-6) when ``normalize_std``.

    ``rewards`` and ``group_ids`` have shape [N]; groups may have any sizes and come in any order. The standard
    deviation is the unbiased one; a group of one, like a group of equal rewards, gets 0.
    GRPO: Shao et al. 2024 (arXiv:2402.03300), §4.1; without the division: Dr. GRPO (arXiv:2503.20783).
    """
    centered, counts, group_of = _centered(rewards, group_ids)
    if normalize_std:
        squares = torch.zeros_like(counts).index_add(0, group_of, centered.square())
        variances = squares / (counts - 1).clamp(min=1)
        centered = centered / (variances.sqrt()[group_of] + STD_EPSILON)
    return centered.to(rewards.dtype)


def leave_one_out(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """Each reward less the mean of the others of its group: (r − mean)·n / (n − 1); a group of one gets 0.

    Shapes as in :func:`group_normalize`. RLOO: Kool et al. 2019; Ahmadian et al. 2024 (arXiv:2402.14740), eq. 6.
    """
    centered, counts, group_of = _centered(rewards, group_ids)
    return (centered * (counts / (counts - 1).clamp(min=1))[group_of]).to(rewards.dtype)


def _centered(rewards: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(r − its group's mean, each group's size, each reward's group), in float64."""
    # In float64: otherwise the rounding of the mean, over a std of nearly 0, looks like an advantage.
    rewards_64 = rewards.to(torch.float64)
    # torch leaves the result of `unique` untyped.
    ids, group_of = cast("tuple[Tensor, Tensor]", torch.unique(group_ids, return_inverse=True))  # pyright: ignore[reportUnknownMemberType]
    zeros = torch.zeros(len(ids), dtype=torch.float64, device=rewards.device)
    counts = zeros.index_add(0, group_of, torch.ones_like(rewards_64))
    means = zeros.index_add(0, group_of, rewards_64) / counts
    return rewards_64 - means[group_of], counts, group_of


def token_rewards(
    outcomes: Tensor, kl: Tensor | None, mask: Tensor, cu_lengths: Tensor, *, kl_coef: float, at_last_unmasked: bool
) -> Tensor:
    """Reward of every token, [T]: −kl_coef·kl where the mask is 1, and the sample's outcome ([N]) at one token.

    That token is the last one with mask 1 (a sample without one gets no outcome), or simply the last one. Ouyang et
    al. 2022 (arXiv:2203.02155), §3.5. A masked token, which the policy did not sample, bears no penalty.
    """
    weights = mask.to(outcomes.dtype)
    rewards = torch.zeros_like(weights) if kl is None else torch.where(weights != 0, -kl_coef * kl, 0.0)
    if len(outcomes) == 0:
        return rewards
    position = torch.arange(len(weights), device=weights.device)
    at = cu_lengths[1:].to(torch.int64) - 1
    given = cu_lengths.diff() > 0
    if at_last_unmasked:
        last = torch.full_like(at, -1)
        at = last.scatter_reduce(0, sample_of_token(cu_lengths), torch.where(weights != 0, position, -1), "amax")
        given = at >= 0
    return rewards.index_add(0, at[given], outcomes[given])


def discounted_returns(rewards: Tensor, cu_lengths: Tensor, *, discount: float) -> Tensor:
    """G_t = r_t + discount·G_{t+1} within each sample, [T]. Sutton and Barto, 2nd edition, eq. 3.9.

    By doubling: after k rounds every token holds the sum over its next 2^k, so the number of rounds is logarithmic in
    the longest response, whatever the discount.
    """
    total = rewards
    length = int(cu_lengths.diff().max()) if len(cu_lengths) > 1 else 0
    end = cu_lengths[1:].to(torch.int64)[sample_of_token(cu_lengths)]
    position = torch.arange(len(rewards), device=rewards.device)
    shift = 1
    while shift < length:
        ahead = position + shift
        later = torch.where(ahead < end, total[ahead.clamp(max=len(rewards) - 1)], 0.0)
        total = total + discount**shift * later
        shift *= 2
    return total


def reinforce_plus_plus_returns(
    outcomes: Tensor, kl: Tensor | None, mask: Tensor, cu_lengths: Tensor, *, kl_coef: float, gamma: float
) -> Tensor:
    """A_t = G_t of the token rewards, with the outcome at the last token with mask 1; to be whitened.

    ``outcomes`` [N], the others [T]. REINFORCE++: Hu et al. 2025 (arXiv:2501.03262), §3.
    """
    rewards = token_rewards(outcomes, kl, mask, cu_lengths, kl_coef=kl_coef, at_last_unmasked=True)
    return discounted_returns(rewards, cu_lengths, discount=gamma)


def baseline_advantages(
    outcomes: Tensor, kl: Tensor | None, mask: Tensor, cu_lengths: Tensor, *, kl_coef: float
) -> Tensor:
    """A_t = outcome − kl_coef·kl_t, with outcomes ([N]) less their group's mean; to be whitened.

    REINFORCE++ with baseline: Hu et al. 2025 (arXiv:2501.03262), §3.2.
    """
    advantages = outcomes[sample_of_token(cu_lengths)]
    return advantages if kl is None else advantages - torch.where(mask != 0, kl_coef * kl, 0.0)


def generalized_advantages(
    rewards: Tensor, values: Tensor, cu_lengths: Tensor, *, gamma: float, lambd: float
) -> tuple[Tensor, Tensor]:
    """(advantages, returns) of token rewards and a critic's values, all [T].

    With V = 0 after a sample's last token: δ_t = r_t + γ·V_{t+1} − V_t; A_t = δ_t + γλ·A_{t+1}; R_t = A_t + V_t.
    Schulman et al. 2015 (arXiv:1506.02438), eq. 16.
    """
    if not len(values):
        return rewards, rewards
    following = torch.cat([values[1:], values.new_zeros(1)])
    ends = cu_lengths[1:][cu_lengths.diff() > 0].to(torch.int64) - 1
    following = following.index_fill(0, ends, 0.0)
    deltas = rewards + gamma * following - values
    advantages = discounted_returns(deltas, cu_lengths, discount=gamma * lambd)
    return advantages, advantages + values


def whitening_sums(values: Tensor, mask: Tensor) -> Tensor:
    """[count, Σ value, Σ value²] over the tokens with mask 1, float64: add up those of all micro-batches and ranks."""
    kept = values[mask != 0].to(torch.float64)
    return torch.stack([kept.new_tensor(kept.numel()), kept.sum(), kept.square().sum()])


def whiten(values: Tensor, sums: Tensor) -> Tensor:
    """(value − μ) / √(var + 1e-8), of every token, with the mean and the variance that ``sums`` (the total of
    :func:`whitening_sums`) hold: the unbiased variance where there are two tokens or more.

    Raises ValueError when not one token counts. Andrychowicz et al. 2021 (arXiv:2006.05990), §3.
    """
    count, total, squares = sums.to(torch.float64).unbind()
    if float(count) == 0:
        raise ValueError("advantages cannot be whitened: not one token of the rollout has a loss mask of 1")
    mean = total / count
    variance = (squares - count * mean.square()).clamp(min=0) / (count - 1).clamp(min=1)
    return ((values.to(torch.float64) - mean) / (variance + 1e-8).sqrt()).to(values.dtype)
