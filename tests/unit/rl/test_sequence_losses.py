"""GSPO, CISPO, value, DPO, unbiased KL, importance weights and OPSM against loops over lists."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rl.ragged import flat, pack, ragged
from trainers.rl.correction import masked_weights, off_policy_sequences, truncated_weights
from trainers.rl.kl import KLEstimator, kl_estimate
from trainers.rl.losses import cispo_loss, clipped_ratio_loss, dpo_loss, sequence_log_ratio, value_loss
from trainers.rl.reduce import sample_means, sample_sums, sum_of_weighted_samples

log_prob = st.floats(-6, 0)
value = st.floats(-3, 3)
epsilon = st.floats(0.01, 0.5)
type Samples = list[list[tuple[float, ...]]]


def mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


@settings(deadline=None)
@given(samples=ragged(log_prob, log_prob, value), low=epsilon, high=epsilon)
def test_gspo_gives_every_token_its_samples_mean_log_ratio(samples: Samples, low: float, high: float) -> None:
    (new, old, advantages, mask), cu = pack(samples, 4)
    log_ratio = sequence_log_ratio(new, old, mask, cu)
    drifts = [mean([n - o for n, o, _, bit in sample if bit]) for sample in samples]
    expected = [[drift] * len(sample) for drift, sample in zip(drifts, samples, strict=True)]
    assert log_ratio.tolist() == pytest.approx(flat(expected), abs=1e-9)
    loss, _ = clipped_ratio_loss(log_ratio, advantages, eps_clip=low, eps_clip_high=high)
    by_hand = [
        max(-math.exp(drift) * a, -min(max(math.exp(drift), 1 - low), 1 + high) * a)
        for drift, sample in zip(drifts, samples, strict=True)
        for _, _, a, _ in sample
    ]
    assert loss.tolist() == pytest.approx(by_hand, abs=1e-9)


@given(
    tokens=st.lists(st.tuples(log_prob, log_prob, value), min_size=1, max_size=9),
    low=epsilon,
    high=epsilon,
)
def test_cispo_weighs_the_log_probability_and_every_token_keeps_its_gradient(
    tokens: list[tuple[float, float, float]], low: float, high: float
) -> None:
    new, old, advantages = (torch.tensor(column, dtype=torch.float64) for column in zip(*tokens, strict=True))
    new.requires_grad_()
    loss, outside = cispo_loss(new, old, advantages, eps_clip=low, eps_clip_high=high)
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    ratios = [math.exp(n - o) for n, o, _ in tokens]
    weights = [min(max(ratio, 1 - low), 1 + high) for ratio in ratios]
    expected = [-w * a * n for w, (n, _, a) in zip(weights, tokens, strict=True)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert gradient.tolist() == pytest.approx([-w * a for w, (_, _, a) in zip(weights, tokens, strict=True)])
    inside = [1 - low <= ratio <= 1 + high for ratio in ratios]
    assert [bool(each) for each in outside.tolist()] == [not each for each in inside]


@given(tokens=st.lists(st.tuples(value, value, value), min_size=1, max_size=9), clip=st.floats(0.05, 2))
def test_the_value_loss_takes_the_worse_of_the_plain_and_the_clipped_square(
    tokens: list[tuple[float, float, float]], clip: float
) -> None:
    new, old, returns = (torch.tensor(column, dtype=torch.float64) for column in zip(*tokens, strict=True))
    loss, clipped = value_loss(new, old, returns, value_clip=clip)
    squares = [((v - r) ** 2, (o + min(max(v - o, -clip), clip) - r) ** 2) for v, o, r in tokens]
    assert loss.tolist() == pytest.approx([max(pair) for pair in squares], abs=1e-9)
    assert [bool(each) for each in clipped.tolist()] == [b > a for a, b in squares]


@given(
    pairs=st.lists(st.tuples(value, value, value, value), min_size=1, max_size=6),
    beta=st.floats(0.01, 2),
    smoothing=st.floats(0, 0.49),
)
def test_dpo_equals_the_formula_pair_by_pair(
    pairs: list[tuple[float, float, float, float]], beta: float, smoothing: float
) -> None:
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True)]
    loss, margin = dpo_loss(*columns, beta=beta, label_smoothing=smoothing)
    z = [beta * ((c - rc) - (r - rr)) for c, r, rc, rr in pairs]
    expected = [(1 - smoothing) * math.log1p(math.exp(-x)) + smoothing * math.log1p(math.exp(x)) for x in z]
    assert margin.tolist() == pytest.approx(z, abs=1e-9)
    assert loss.tolist() == pytest.approx(expected, abs=1e-9)


@given(p=log_prob, q=log_prob, importance=st.floats(-2, 2))
def test_the_low_variance_estimate_is_k3_weighed_and_then_bounded(p: float, q: float, importance: float) -> None:
    log_p, log_q, ratio = (torch.tensor(x, dtype=torch.float64) for x in (p, q, importance))
    k3 = math.exp(q - p) - 1 + (p - q)
    plain = kl_estimate(log_p, log_q, estimator="low_var_kl")
    assert plain.item() == pytest.approx(min(k3, 10), abs=1e-9)
    weighed = kl_estimate(log_p, log_q, estimator="low_var_kl", importance_log_ratio=ratio)
    assert weighed.item() == pytest.approx(min(k3 * math.exp(importance), 10), abs=1e-9)
    assert kl_estimate(log_p, log_q, estimator="kl").item() == kl_estimate(log_p, log_q, estimator="k1").item()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_unbiased_estimate_has_the_divergences_own_gradient(estimator: KLEstimator) -> None:
    logits = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    sampler, q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    log_p = logits.log_softmax(-1)
    divergence = (log_p.exp() * (log_p - q.log())).sum()
    estimate = kl_estimate(log_p, q.log(), estimator=estimator, importance_log_ratio=log_p - sampler.log())
    expectation = (sampler * estimate).sum()
    assert expectation.item() == pytest.approx(divergence.item())
    (expected,) = torch.autograd.grad(divergence, logits, retain_graph=True)
    (found,) = torch.autograd.grad(expectation, logits)
    torch.testing.assert_close(found, expected)


@given(tokens=st.lists(st.tuples(log_prob, log_prob), min_size=1, max_size=9), low=st.floats(0, 0.9))
def test_importance_weights_are_bounded_or_masked_and_carry_no_gradient(
    tokens: list[tuple[float, float]], low: float
) -> None:
    old, rollout = (torch.tensor(column, dtype=torch.float64) for column in zip(*tokens, strict=True))
    old.requires_grad_()
    ratios = [math.exp(o - r) for o, r in tokens]
    outside = [not low <= ratio <= 2.0 for ratio in ratios]
    weights, clipped = truncated_weights(old, rollout, clip_low=low, clip=2.0)
    assert weights.tolist() == pytest.approx([min(max(ratio, low), 2.0) for ratio in ratios])
    assert [bool(each) for each in clipped.tolist()] == outside
    masked, dropped = masked_weights(old, rollout, clip_low=low, clip=2.0)
    assert masked.tolist() == pytest.approx([0.0 if out else r for r, out in zip(ratios, outside, strict=True)])
    assert [bool(each) for each in dropped.tolist()] == outside
    assert not weights.requires_grad
    assert not masked.requires_grad


@settings(deadline=None)
@given(samples=ragged(log_prob, log_prob, value), delta=st.floats(0, 1))
def test_opsm_takes_out_negative_tokens_of_samples_that_drifted(samples: Samples, delta: float) -> None:
    (new, old, advantages, mask), cu = pack(samples, 4)
    found = off_policy_sequences(new, old, advantages, mask, cu, delta=delta)
    expected = [
        float(a < 0 and mean([o - n for n, o, _, bit in sample if bit]) > delta)
        for sample in samples
        for _, _, a, _ in sample
    ]
    assert found.tolist() == expected


@given(samples=ragged(value))
def test_sums_and_means_of_samples_equal_the_loops(samples: Samples) -> None:
    (values, mask), cu = pack(samples, 2)
    kept = [[v for v, bit in sample if bit] for sample in samples]
    assert sample_sums(values, mask, cu).tolist() == pytest.approx([sum(each) for each in kept], abs=1e-9)
    assert sample_means(values, mask, cu).tolist() == pytest.approx([mean(each) for each in kept], abs=1e-9)


@given(samples=ragged(value, max_samples=6), data=st.data())
def test_samples_of_one_trajectory_weigh_as_one(samples: Samples, data: st.DataObject) -> None:
    trajectory = [data.draw(st.integers(0, 2)) for _ in samples]
    (values, mask), cu = pack(samples, 2)
    kept: dict[int, list[float]] = {}
    for number, sample in zip(trajectory, samples, strict=True):
        kept.setdefault(number, []).extend(v for v, bit in sample if bit)
    divisors = torch.tensor([float(len(kept[number])) for number in trajectory])
    found = sum_of_weighted_samples(values, mask, cu, divisors).item()
    assert found == pytest.approx(sum(mean(each) for each in kept.values()), abs=1e-9)
