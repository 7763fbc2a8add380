import pytest
import torch

from forebay_kernels.ops.rms_norm import rms_norm, rms_norm_reference

# One rounding of the result, and sums in another order: the dtype's spacing decides.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(0, 64), (1, 576), (5, 33), (300, 576)])
@pytest.mark.parametrize("with_residual", [False, True])
def test_rows_are_normalized_as_the_reference_does(instruction_set, dtype, shape, with_residual):
    x_TD, weight_D = noise(*shape).to(dtype), noise(shape[1], seed=1)
    residual_TD = noise(*shape, seed=2).to(dtype) if with_residual else None
    got, expected = rms_norm(x_TD, weight_D, 1e-5, residual_TD), rms_norm_reference(x_TD, weight_D, 1e-5, residual_TD)
    assert torch.equal(got[1], expected[1])
    torch.testing.assert_close(got[0], expected[0], rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_heads_of_a_fused_projection_are_normalized_each_on_its_own(instruction_set, dtype):
    q_THD = noise(7, 5 * 64).to(dtype)[:, 64:256].view(7, 3, 64)
    weight_D = noise(64, seed=1)
    got_THD, _ = rms_norm(q_THD, weight_D, 1e-6)
    assert got_THD.is_contiguous()
    assert torch.equal(got_THD.flatten(0, 1), rms_norm(q_THD.flatten(0, 1), weight_D, 1e-6)[0])
    expected_THD, _ = rms_norm_reference(q_THD, weight_D, 1e-6)
    torch.testing.assert_close(got_THD, expected_THD, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


def test_without_a_residual_the_sum_is_the_input_itself():
    x_TD = noise(2, 64)
    assert rms_norm(x_TD, torch.ones(64), 1e-5)[1] is x_TD


def test_inputs_stay_and_a_row_is_bit_equal_alone(instruction_set):
    x_TD, residual_TD, weight_D = noise(40, 576), noise(40, 576, seed=1), noise(576, seed=2)
    copies = x_TD.clone(), residual_TD.clone()
    out_TD, sum_TD = rms_norm(x_TD, weight_D, 1e-5, residual_TD)
    assert torch.equal(x_TD, copies[0])
    assert torch.equal(residual_TD, copies[1])
    alone = rms_norm(x_TD[7:8], weight_D, 1e-5, residual_TD[7:8])
    assert torch.equal(alone[0][0], out_TD[7])
    assert torch.equal(alone[1][0], sum_TD[7])


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="`weight`"):
        rms_norm(noise(2, 64), torch.ones(63), 1e-5)
    with pytest.raises(ValueError, match=r"`x` .*contiguous from dimension 1"):
        rms_norm(noise(2, 64, 3).transpose(1, 2), torch.ones(64), 1e-5)
    with pytest.raises(ValueError, match=r"`x` has shape .*2 or 3 dimensions"):
        rms_norm(noise(64), torch.ones(64), 1e-5)
    with pytest.raises(ValueError, match="`residual`"):
        rms_norm(noise(2, 64), torch.ones(64), 1e-5, noise(3, 64))
    with pytest.raises(TypeError, match="`residual` is bfloat16"):
        rms_norm(noise(2, 64), torch.ones(64), 1e-5, noise(2, 64).bfloat16())
