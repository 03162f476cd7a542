"""The clipped loss against one written out token by token in plain floats."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.rl.kl import KLEstimator, kl_estimate
from trainers.rl.losses import clipped_policy_loss

log_prob = st.floats(-8, 0)
token = st.tuples(log_prob, log_prob, st.floats(-3, 3))


def by_hand(new: float, old: float, advantage: float, low: float, high: float, c: float | None) -> tuple[float, float]:
    ratio = math.exp(new - old)
    bounded = min(max(ratio, 1 - low), 1 + high)
    plain, clipped = -ratio * advantage, -bounded * advantage
    loss = max(plain, clipped)
    if c is not None and advantage < 0:
        loss = min(loss, -c * advantage)
    return loss, float(clipped > plain)


@given(
    tokens=st.lists(token, min_size=1, max_size=20),
    low=st.floats(0.01, 0.5),
    high=st.floats(0.01, 0.5),
    c=st.none() | st.floats(1.1, 5),
)
def test_the_clipped_loss_equals_the_formula_token_by_token(
    tokens: list[tuple[float, float, float]], low: float, high: float, c: float | None
) -> None:
    new, old, advantages = (torch.tensor(column, dtype=torch.float64) for column in zip(*tokens, strict=True))
    loss, clipped = clipped_policy_loss(new, old, advantages, eps_clip=low, eps_clip_high=high, eps_clip_c=c)
    expected = [by_hand(*each, low, high, c) for each in tokens]
    assert loss.tolist() == pytest.approx([value for value, _ in expected], rel=1e-9, abs=1e-12)
    assert clipped.tolist() == [indicator for _, indicator in expected]


def test_on_policy_the_gradient_is_minus_the_advantage() -> None:
    advantages = torch.tensor([1.5, -0.5, 0.0])
    log_probs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    loss, clipped = clipped_policy_loss(log_probs, log_probs.detach(), advantages, eps_clip=0.2, eps_clip_high=0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), log_probs)
    assert gradient.tolist() == pytest.approx([-1.5, 0.5, 0.0])
    assert clipped.tolist() == [0.0, 0.0, 0.0]


def test_a_clipped_token_has_no_gradient() -> None:
    old = torch.zeros(2)
    log_probs = torch.tensor([math.log(1.5), math.log(0.5)], requires_grad=True)
    loss, clipped = clipped_policy_loss(log_probs, old, torch.tensor([1.0, -1.0]), eps_clip=0.2, eps_clip_high=0.3)
    (gradient,) = torch.autograd.grad(loss.sum(), log_probs)
    assert loss.tolist() == pytest.approx([-1.3, 0.8])
    assert gradient.tolist() == [0.0, 0.0]
    assert clipped.tolist() == [1.0, 1.0]


def test_dual_clip_bounds_the_loss_of_a_negative_advantage_alone() -> None:
    log_probs = torch.tensor([math.log(10.0), math.log(10.0)])
    loss, _ = clipped_policy_loss(
        log_probs, torch.zeros(2), torch.tensor([-1.0, 1.0]), eps_clip=0.2, eps_clip_high=0.2, eps_clip_c=3.0
    )
    assert loss.tolist() == pytest.approx([3.0, -1.2])


@pytest.mark.parametrize(("estimator", "unbiased"), [("k1", True), ("k2", False), ("k3", True)])
def test_an_estimator_averages_to_the_divergence_exactly_when_it_is_unbiased(
    estimator: KLEstimator, unbiased: bool
) -> None:
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    q = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    divergence = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    estimate = (p * kl_estimate(p.log(), q.log(), estimator=estimator)).sum().item()
    assert (abs(estimate - divergence) < 1e-12) is unbiased


@given(delta=st.floats(-5, 5))
def test_k2_and_k3_are_never_negative_and_follow_their_formulas(delta: float) -> None:
    log_p, log_q = torch.tensor(delta, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    k2 = kl_estimate(log_p, log_q, estimator="k2").item()
    k3 = kl_estimate(log_p, log_q, estimator="k3").item()
    assert k2 == pytest.approx(delta**2 / 2)
    assert k3 == pytest.approx(math.exp(-delta) - 1 + delta, abs=1e-12)
    assert k2 >= 0
    assert k3 >= -1e-15
