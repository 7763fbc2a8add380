import pytest
import torch

from forebay_kernels.ops.activation import (
    activation,
    activation_reference,
    gated_activation,
    gated_activation_reference,
)

KINDS = ["silu", "gelu", "gelu_tanh"]


def noise(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("shape", [(0, 8), (1, 3072), (7, 34), (200, 3072)])
def test_activations_match_the_reference(instruction_set, kind, dtype, tolerance, shape):
    x = noise(shape, dtype)
    # exp's last bits, and one rounding of the result to the dtype. GELU subtracts from one: an absolute error.
    absolute = {"silu": 1e-30}.get(kind, 2e-5)
    torch.testing.assert_close(activation(x, kind), activation_reference(x, kind), rtol=tolerance, atol=absolute)
    gated, expected = gated_activation(x, kind), gated_activation_reference(x, kind)
    torch.testing.assert_close(gated, expected, rtol=tolerance, atol=absolute)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_gates_give_zero_or_the_gate_and_nan_stays(instruction_set, kind):
    x = torch.tensor([[-1e30, 1e30, float("nan"), -100.0, 1.0, 1.0, 1.0, 1.0]])
    out = gated_activation(x, kind)[0]
    assert abs(out[0]) < 1e-7
    assert out[1] == 1e30
    assert out[2].isnan()
    assert abs(out[3]) < 1e-35
    assert torch.equal(activation(x[:, :2], kind)[0], out[:2])


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="`gate_up`"):
        gated_activation(torch.zeros(2, 7), "silu")
    with pytest.raises(ValueError, match=r"`relu`.*`gelu_tanh`"):
        activation(torch.zeros(2, 8), "relu")
