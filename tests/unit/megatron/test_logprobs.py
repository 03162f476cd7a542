"""Log-probabilities and entropy in chunks and over shards, against torch's whole float32 log-softmax."""

import pytest
import torch

from trainers.megatron.logprobs import VocabShard, log_probs_of_hidden, log_probs_of_logits

ROWS, HIDDEN, VOCAB, PADDED = 37, 16, 50, 64


def _problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, HIDDEN, generator=generator).requires_grad_()
    weight = (torch.randn(PADDED, HIDDEN, generator=generator) / 4).requires_grad_()
    targets = torch.randint(0, VOCAB, (ROWS,), generator=generator)
    return hidden, weight, targets, torch.randn(ROWS, generator=generator), torch.randn(ROWS, generator=generator)


def _plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float):
    log_p = ((hidden @ weight.T)[:, :VOCAB] / temperature).log_softmax(-1)
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("rows_per_chunk", [1, 8, 37, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_a_plain_log_softmax_however_they_are_chunked(
    rows_per_chunk: int, temperature: float
) -> None:
    hidden, weight, targets, a, b = _problem()
    expected = _plain(hidden, weight, targets, temperature)
    expected_gradients = torch.autograd.grad((expected[0] * a + expected[1] * b).sum(), [hidden, weight])

    found = log_probs_of_hidden(
        hidden,
        targets,
        lambda rows: rows @ weight.T,
        VocabShard(0, PADDED, VOCAB),
        temperature=temperature,
        chunk_elements=rows_per_chunk * PADDED,
    )
    gradients = torch.autograd.grad((found[0] * a + found[1] * b).sum(), [hidden, weight])

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-5)


def test_the_padding_of_the_vocabulary_has_no_probability_and_no_gradient() -> None:
    logits = torch.zeros(4, PADDED)
    logits[:, VOCAB:] = 100.0
    logits.requires_grad_()
    log_probs, entropy = log_probs_of_logits(logits, torch.arange(4), VocabShard(0, PADDED, VOCAB), temperature=1.0)
    (log_probs + entropy).sum().backward()

    uniform = torch.full((4,), float(VOCAB)).log()
    torch.testing.assert_close(log_probs, -uniform)
    torch.testing.assert_close(entropy, uniform)
    assert logits.grad is not None
    assert not logits.grad[:, VOCAB:].any()


def test_logits_in_bfloat16_get_a_gradient_in_bfloat16() -> None:
    logits = torch.randn(8, PADDED).to(torch.bfloat16).requires_grad_()
    log_probs, _ = log_probs_of_logits(logits, torch.arange(8), VocabShard(0, PADDED, VOCAB), temperature=1.0)
    log_probs.sum().backward()

    assert log_probs.dtype == torch.float32
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16
