"""A rank without a sample in a step takes part in it all the same: its sums are zeros that can be differentiated."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from tests.unit.trainers.test_algorithm_config import NAMES, minimal
from trainers.config import AlgorithmConfig
from trainers.megatron.experience import Experience
from trainers.megatron.loss import Aggregation, ValueLoss, loss_of
from trainers.megatron.packing import MicroBatch
from trainers.megatron.signals import Signals
from trainers.rl.doors import LossInputs


def batch_of_none() -> MicroBatch:
    none = torch.zeros(0)
    sequences: Any = None
    return MicroBatch(
        tokens=torch.zeros(1, 1, dtype=torch.int64),
        positions=torch.zeros(1, 1, dtype=torch.int64),
        sequences=sequences,
        rows=torch.zeros(0, dtype=torch.int64),
        targets=torch.zeros(0, dtype=torch.int64),
        loss_mask=none,
        rollout_log_probs=none,
        advantages=none,
        cu_responses=torch.zeros(1, dtype=torch.int64),
        trajectory_tokens=none,
        trajectory_heads=none,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_micro_batch_of_no_samples_adds_nothing_to_any_loss(name: str) -> None:
    extra = {"kl": {"loss_coef": 0.1}, "correction": {}, "opsm": {}} if name not in ("sft", "dpo") else {}
    algorithm: Any = TypeAdapter(AlgorithmConfig).validate_python(minimal(name) | extra)
    batch = batch_of_none()
    log_probs = torch.zeros(0, requires_grad=True)
    group: Any = None
    none = [[torch.zeros(0)]]
    experience = Experience(
        algorithm, group, policy=lambda steps: none, reference=lambda steps: none, critic=lambda steps: none
    )
    if getattr(algorithm, "normalize_advantages", False):
        signals = Signals(torch.zeros(0), ref_log_probs=torch.zeros(0))  # whitening is a matter of all ranks
    else:
        [[signals]] = experience([[batch]])
    loss = loss_of(algorithm)
    value, denominator, sums = loss((log_probs, torch.zeros(0)), batch, signals)
    value.backward()
    assert (value.item(), denominator.item()) == (0, 0)
    assert sums.shape == (len(loss.names),)
    assert loss.metrics(sums.tolist())["loss"] == 0


def over_the_mask(inputs: LossInputs, algorithm: Any) -> torch.Tensor:
    return torch.exp((inputs.log_probs + 1) / inputs.loss_mask)


@pytest.mark.parametrize("custom", [None, f"{__name__}:over_the_mask"])
def test_a_masked_token_spoils_no_gradient_however_large_what_is_made_of_it(custom: str | None) -> None:
    given = {"name": "grpo", "kl": {"loss_coef": 0.1, "estimator": "k3"}, "custom_loss": custom}
    algorithm: Any = TypeAdapter(AlgorithmConfig).validate_python(given)
    numbers = torch.tensor([-0.5, -90.0, -0.25])
    batch = replace(
        batch_of_none(),
        loss_mask=torch.tensor([1.0, 0.0, 1.0]),
        rollout_log_probs=numbers,
        advantages=torch.ones(3),
        cu_responses=torch.tensor([0, 3]),
        trajectory_tokens=torch.tensor([2.0]),
        trajectory_heads=torch.ones(1),
    )
    log_probs = numbers.clone().requires_grad_()
    signals = Signals(torch.ones(3), ref_log_probs=torch.tensor([-0.5, 0.0, -0.25]))
    value, _, _ = loss_of(algorithm)((log_probs, torch.zeros(3)), batch, signals)
    value.backward()
    assert log_probs.grad is not None
    assert log_probs.grad[1] == 0
    assert log_probs.grad.isfinite().all() and (log_probs.grad[[0, 2]] != 0).all()


def test_a_micro_batch_of_no_samples_adds_nothing_to_the_critics_loss() -> None:
    none = torch.zeros(0)
    loss = ValueLoss(0.2, Aggregation("sample_mean"))
    value, denominator, sums = loss(
        torch.zeros(0, requires_grad=True), batch_of_none(), Signals(none, values=none, returns=none)
    )
    assert (value.item(), denominator.item(), sums[:-1].abs().sum().item()) == (0, 0, 0)
