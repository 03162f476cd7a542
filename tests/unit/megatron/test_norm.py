from types import SimpleNamespace

import torch

from trainers.megatron.norm import RMSNorm


def test_it_is_the_formula() -> None:
    norm = RMSNorm(config=SimpleNamespace(params_dtype=torch.float32, sequence_parallel=False), hidden_size=4, eps=0.25)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    # The mean square is 0.75, and √(0.75 + 0.25) is 1.
    torch.testing.assert_close(norm(torch.tensor([[1.0, -1.0, 1.0, 0.0]])), torch.tensor([[1.0, -2.0, 3.0, 0.0]]))


def test_its_weight_says_whether_it_sees_a_part_of_the_sequence() -> None:
    for parallel in (False, True):
        config = SimpleNamespace(params_dtype=torch.bfloat16, sequence_parallel=parallel)
        norm = RMSNorm(config=config, hidden_size=8, eps=1e-6)
        assert (norm.weight.sequence_parallel, norm.weight.dtype) == (parallel, torch.bfloat16)  # type: ignore[attr-defined]
