from types import SimpleNamespace

import pytest
import torch

from trainers.megatron.norm import RMSNorm, rms_norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_gpu_compiles_is_torchs_norm_with_its_gradients(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 1, 3, 16, generator=generator).to(dtype).requires_grad_()
    weight = torch.rand(16, generator=generator).to(dtype).requires_grad_()
    of_result = torch.randn(5, 1, 3, 16, generator=generator).to(dtype)
    expected = torch.nn.functional.rms_norm(x.float(), (16,), weight.float(), 1e-6).to(dtype)
    expected_gradients = torch.autograd.grad(expected, [x, weight], of_result)
    found = rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, [x, weight], of_result), expected_gradients)


def test_its_weight_says_whether_it_sees_a_part_of_the_sequence() -> None:
    for parallel in (False, True):
        config = SimpleNamespace(params_dtype=torch.bfloat16, sequence_parallel=parallel)
        norm = RMSNorm(config=config, hidden_size=8, eps=1e-6)
        assert (norm.weight.sequence_parallel, norm.weight.dtype) == (parallel, torch.bfloat16)  # type: ignore[attr-defined]
