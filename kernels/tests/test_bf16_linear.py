import pytest
import torch

from forebay_kernels.ops.bf16_linear import bf16_embedding, bf16_linear, bf16_linear_reference, pack_bf16


def matrix(num_rows: int, num_columns: int, seed: int) -> torch.Tensor:
    return torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("shape", [(16, 2), (100, 96), (577, 640)])
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 3, 8, 21, 64])
def test_the_product_is_the_exact_one_rounded_once(instruction_set, num_tokens, shape):
    weight_NK, x_TK = matrix(*shape, 1), matrix(num_tokens, shape[1], 2)
    out_TN = bf16_linear(x_TK, pack_bf16(weight_NK))
    exact_TN = bf16_linear_reference(x_TK, weight_NK)
    magnitude_TN = x_TK.double().abs() @ weight_NK.double().abs().T
    # Half a unit of bfloat16 (8 bits), and float32 sums: some units of 2^-24 of the magnitudes.
    assert out_TN.dtype == torch.bfloat16
    assert ((out_TN.double() - exact_TN).abs() <= exact_TN.abs() * 2**-8 + 4e-6 * magnitude_TN).all()


def test_a_row_is_bit_equal_alone_and_in_a_batch_of_several_panels(instruction_set):
    weight = pack_bf16(matrix(150, 576, 3))
    x_TK = matrix(700, 576, 4)
    batch_TN = bf16_linear(x_TK, weight)
    for t in (0, 7, 8, 455, 456, 699):
        assert torch.equal(bf16_linear(x_TK[t : t + 1], weight)[0], batch_TN[t])


def test_rows_may_be_strided(instruction_set):
    weight = pack_bf16(matrix(40, 96, 5))
    wide_TK = matrix(6, 200, 6)
    assert torch.equal(bf16_linear(wide_TK[:, 40:136], weight), bf16_linear(wide_TK[:, 40:136].contiguous(), weight))


def test_a_nan_stays_in_its_row(instruction_set):
    x_TK = matrix(3, 96, 7)
    x_TK[1, 50] = float("nan")
    out_TN = bf16_linear(x_TK, pack_bf16(matrix(40, 96, 8)))
    assert out_TN[1].isnan().all()
    assert not out_TN[[0, 2]].isnan().any()


def test_embedding_gathers_rows():
    weight_NK = matrix(37, 96, 9)
    ids_T = torch.tensor([36, 0, 15, 16])
    assert torch.equal(bf16_embedding(ids_T, pack_bf16(weight_NK)), weight_NK[ids_T])


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="`5`, expected a positive multiple of 2"):
        pack_bf16(matrix(4, 5, 0))
    weight = pack_bf16(matrix(4, 6, 0))
    with pytest.raises(ValueError, match="`x`"):
        bf16_linear(matrix(2, 4, 0), weight)
    with pytest.raises(TypeError, match="`x` is float32"):
        bf16_linear(torch.zeros(2, 6), weight)
    with pytest.raises(ValueError, match=r"ids\[1\].*`4`"):
        bf16_embedding(torch.tensor([0, 4]), weight)
