import dataclasses

import pytest
import torch

from forebay_kernels.ops.activation import gated_activation
from forebay_kernels.ops.mlp_sublayer import MlpSublayer, MlpWeights, mlp_sublayer_reference
from forebay_kernels.ops.quantize_blocks import quantize_blocks
from forebay_kernels.ops.quantized_linear import PackedWeight, pack, quantized_linear
from forebay_kernels.ops.rms_norm import rms_norm

WIDTH, INNER = 256, 320


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def packed(*segments: torch.Tensor, block_type: str = "Q8_0") -> PackedWeight:
    return pack([(quantize_blocks(rows, block_type), block_type) for rows in segments], segments[0].shape[1])


def weights(kind: str = "silu", with_bias: bool = False) -> MlpWeights:
    gate, up, down = noise(INNER, WIDTH, seed=1), noise(INNER, WIDTH, seed=2), noise(WIDTH, INNER, seed=3)
    return MlpWeights(
        norm_weight_D=noise(WIDTH, seed=4),
        norm_eps=1e-5,
        gate_up=packed(gate * 0.1, up * 0.1),
        gate_up_bias=noise(2 * INNER, seed=5) if with_bias else None,
        kind=kind,
        down=packed(down * 0.1, block_type="Q4_1"),
    )


def one_after_another(
    x_TD: torch.Tensor, residual_TD: torch.Tensor | None, of: MlpWeights
) -> tuple[torch.Tensor, torch.Tensor]:
    normed_TD, sum_TD = rms_norm(x_TD, of.norm_weight_D, of.norm_eps, residual_TD)
    gate_up = quantized_linear(normed_TD, of.gate_up)
    if of.gate_up_bias is not None:
        gate_up += of.gate_up_bias
    return quantized_linear(gated_activation(gate_up, of.kind), of.down), sum_TD


@pytest.mark.parametrize("num_tokens", [0, 1, 7, 8, 40, 300])
@pytest.mark.parametrize(("kind", "with_bias"), [("silu", False), ("gelu_tanh", True), ("gelu", False)])
def test_it_equals_its_ops_to_the_bit(instruction_set, num_tokens, kind, with_bias):
    of = weights(kind, with_bias)
    x_TD = noise(num_tokens, WIDTH)
    residual_TD = None if with_bias else noise(num_tokens, WIDTH, seed=6)
    got, expected = MlpSublayer(of)(x_TD, residual_TD), one_after_another(x_TD, residual_TD, of)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("with_bias", [False, True])
def test_it_matches_the_references(instruction_set, with_bias):
    of = weights(with_bias=with_bias)
    x_TD, residual_TD = noise(9, WIDTH), noise(9, WIDTH, seed=6)
    got, expected = MlpSublayer(of)(x_TD, residual_TD), mlp_sublayer_reference(x_TD, residual_TD, of)
    # Activations are rounded to 16 bits twice, of values that differ by float32 sums: an ulp of 16 bits here and there.
    torch.testing.assert_close(got[0], expected[0], rtol=1e-3, atol=2e-3)
    assert torch.equal(got[1], expected[1])


def test_results_do_not_depend_on_threads_or_neighbours(instruction_set):
    kernel, x_TD, residual_TD = MlpSublayer(weights()), noise(40, WIDTH), noise(40, WIDTH, seed=6)
    out_TD, _ = kernel(x_TD, residual_TD)
    for row in (0, 17, 39):
        alone, _ = kernel(x_TD[row : row + 1], residual_TD[row : row + 1])
        assert torch.equal(alone[0], out_TD[row])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(kernel(x_TD, residual_TD)[0], out_TD)
    finally:
        torch.set_num_threads(before)


def test_wrong_arguments_are_refused_by_name():
    of = weights()
    with pytest.raises(ValueError, match="`kind`"):
        MlpSublayer(dataclasses.replace(of, kind="relu"))
    with pytest.raises(TypeError, match="`norm_weight` is bfloat16"):
        MlpSublayer(dataclasses.replace(of, norm_weight_D=of.norm_weight_D.bfloat16()))
    kernel = MlpSublayer(of)
    with pytest.raises(ValueError, match="`x`"):
        kernel(noise(2, WIDTH - 32))
    with pytest.raises(TypeError, match="`x` is bfloat16"):
        kernel(noise(2, WIDTH).bfloat16())
    with pytest.raises(ValueError, match="`residual`"):
        kernel(noise(2, WIDTH), noise(3, WIDTH))
    with pytest.raises(ValueError, match="`gate_up`"):
        MlpSublayer(dataclasses.replace(of, down=packed(noise(WIDTH, INNER + 32))))(noise(2, WIDTH))
