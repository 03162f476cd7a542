"""What slime's functions on the training ranks import: log-probabilities from logits, and two formulas."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainers.megatron.logprobs import VocabShard, log_probs_of_logits
from trainers.megatron.world import tensor_parallel_group
from trainers.rl.kl import kl_estimate
from trainers.rl.losses import clipped_ratio_loss


def get_log_probs_and_entropy(
    logits: Tensor,
    *,
    args: Any,
    unconcat_tokens: Sequence[Tensor],
    total_lengths: Sequence[int],
    response_lengths: Sequence[int],
    with_entropy: bool = False,
    non_loss_data: bool = True,
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Of the responses, one tensor a sample, at the sampling temperature; nothing first, as in slime.

    ``logits`` is [1, T, this rank's vocabulary], of the samples one after the other."""
    rows: list[Tensor] = []
    end = 0
    for total, response in zip(total_lengths, response_lengths, strict=True):
        end += total
        rows.append(logits[0, end - response - 1 : end - 1])
    targets = [tokens[len(tokens) - count :] for tokens, count in zip(unconcat_tokens, response_lengths, strict=True)]
    group, width = tensor_parallel_group(), logits.shape[-1]
    shard = VocabShard(start=group.rank() * width, width=width, vocab_size=args.vocab_size, group=group)
    values = log_probs_of_logits(torch.cat(rows), torch.cat(targets), shard, temperature=args.rollout_temperature)
    log_probs, entropy = (list(each.split(list(response_lengths))) for each in values)
    return logits.new_empty(0), {"log_probs": log_probs} | ({"entropy": entropy} if with_entropy else {})


def compute_approx_kl(
    log_probs: Tensor, log_probs_base: Tensor, kl_loss_type: Any, importance_ratio: Tensor | None = None
) -> Tensor:
    """As :func:`trainers.rl.kl.kl_estimate`, which takes the ratio's logarithm."""
    ratio = None if importance_ratio is None else importance_ratio.log()
    return kl_estimate(log_probs, log_probs_base, estimator=kl_loss_type, importance_log_ratio=ratio)


def compute_policy_loss(
    ppo_kl: Tensor, advantages: Tensor, eps_clip: float, eps_clip_high: float, eps_clip_c: float | None = None
) -> tuple[Tensor, Tensor]:
    """As :func:`trainers.rl.losses.clipped_ratio_loss`, with ``ppo_kl`` = old − new."""
    return clipped_ratio_loss(
        -ppo_kl, advantages, eps_clip=eps_clip, eps_clip_high=eps_clip_high, eps_clip_c=eps_clip_c
    )
