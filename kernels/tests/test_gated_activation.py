import pytest
import torch

from forebay_kernels.ops.gated_activation import silu_and_mul, silu_and_mul_reference


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("shape", [(0, 8), (1, 3072), (7, 34), (200, 3072)])
def test_the_gate_matches_the_reference(instruction_set, dtype, tolerance, shape):
    x = (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    # exp's last bits, and one rounding of the result to the dtype.
    torch.testing.assert_close(silu_and_mul(x), silu_and_mul_reference(x), rtol=tolerance, atol=1e-30)


def test_extreme_gates_give_zero_or_the_gate_and_nan_stays(instruction_set):
    x = torch.tensor([[-1e30, 1e30, float("nan"), -100.0, 1.0, 1.0, 1.0, 1.0]])
    out = silu_and_mul(x)[0]
    assert abs(out[0]) < 1e-7
    assert out[1] == 1e30
    assert out[2].isnan()
    assert abs(out[3]) < 1e-35


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="`gate_up`"):
        silu_and_mul(torch.zeros(2, 7))
