"""What replaces Megatron's own slow paths computes the same."""

import torch

from trainers.megatron.fusions import l2_norm, scale


def test_the_norm_is_that_of_all_tensors_end_to_end() -> None:
    tensors = [torch.randn(7), torch.randn(3, 5), torch.randn(1)]
    norm, _ = l2_norm(0, torch.zeros(1), [tensors], False)
    torch.testing.assert_close(norm, torch.cat([tensor.flatten() for tensor in tensors]).norm().reshape(1))


def test_scaling_writes_the_targets_in_place_in_their_own_precision() -> None:
    sources = [torch.randn(7), torch.randn(3, 5)]
    targets = [torch.zeros(7), torch.zeros(3, 5, dtype=torch.bfloat16)]
    scale(0, torch.zeros(1), [sources, targets], 1.0)
    assert torch.equal(targets[0], sources[0])
    assert torch.equal(targets[1], sources[1].to(torch.bfloat16))
    before = [source.clone() for source in sources]
    scale(0, torch.zeros(1), [sources, sources], 0.5)
    assert all(torch.equal(source, old * 0.5) for source, old in zip(sources, before, strict=True))
