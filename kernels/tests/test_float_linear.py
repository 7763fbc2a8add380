import pytest
import torch

from forebay_kernels.ops.float_linear import float_embedding, float_linear, float_linear_reference, pack_float

HALF_UNIT = {torch.float32: 2**-24, torch.bfloat16: 2**-9}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request) -> torch.dtype:
    return request.param


def matrix(num_rows: int, num_columns: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("shape", [(16, 2), (100, 96), (577, 640)])
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 3, 8, 21, 64])
def test_the_product_is_the_exact_one_rounded_once(instruction_set, num_tokens, shape, dtype):
    weight_NK, x_TK = matrix(*shape, 1, dtype), matrix(num_tokens, shape[1], 2, dtype)
    out_TN = float_linear(x_TK, pack_float(weight_NK))
    exact_TN = float_linear_reference(x_TK, weight_NK)
    magnitude_TN = x_TK.double().abs() @ weight_NK.double().abs().T
    # Half a unit of the dtype, with room for both roundings, and float32 sums: some units of 2^-24 of the magnitudes.
    assert out_TN.dtype == dtype
    bound_TN = 2 * HALF_UNIT[dtype] * exact_TN.abs() + 4e-6 * magnitude_TN
    assert ((out_TN.double() - exact_TN).abs() <= bound_TN).all()


def test_a_row_is_bit_equal_alone_and_in_a_batch_of_several_panels(instruction_set, dtype):
    weight = pack_float(matrix(150, 576, 3, dtype))
    x_TK = matrix(700, 576, 4, dtype)
    batch_TN = float_linear(x_TK, weight)
    for t in (0, 7, 8, 221, 222, 455, 456, 699):
        assert torch.equal(float_linear(x_TK[t : t + 1], weight)[0], batch_TN[t])


def test_rows_may_be_strided(instruction_set, dtype):
    weight = pack_float(matrix(40, 96, 5, dtype))
    wide_TK = matrix(6, 200, 6, dtype)
    assert torch.equal(float_linear(wide_TK[:, 40:136], weight), float_linear(wide_TK[:, 40:136].contiguous(), weight))


def test_a_nan_stays_in_its_row(instruction_set, dtype):
    x_TK = matrix(3, 96, 7, dtype)
    x_TK[1, 50] = float("nan")
    out_TN = float_linear(x_TK, pack_float(matrix(40, 96, 8, dtype)))
    assert out_TN[1].isnan().all()
    assert not out_TN[[0, 2]].isnan().any()


def test_embedding_gathers_rows(dtype):
    weight_NK = matrix(37, 96, 9, dtype)
    ids_T = torch.tensor([36, 0, 15, 16])
    assert torch.equal(float_embedding(ids_T, pack_float(weight_NK)), weight_NK[ids_T])


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="`5`, expected a positive multiple of 2"):
        pack_float(matrix(4, 5, 0))
    with pytest.raises(TypeError, match="`weight` is float16"):
        pack_float(matrix(4, 6, 0, torch.float16))
    weight = pack_float(matrix(4, 6, 0))
    with pytest.raises(ValueError, match="`x`"):
        float_linear(matrix(2, 4, 0), weight)
    with pytest.raises(TypeError, match="`x` is float32"):
        float_linear(torch.zeros(2, 6), weight)
    with pytest.raises(ValueError, match=r"ids\[1\].*`4`"):
        float_embedding(torch.tensor([0, 4]), weight)
