import gguf
import pytest
import torch

from forebay_kernels.ops.block_types import BLOCK_TYPES
from forebay_kernels.ops.quantize_blocks import quantize_blocks
from forebay_kernels.ops.quantized_linear import (
    PackedWeight,
    dequantize,
    grouped_linear,
    grouped_linear_reference,
    pack,
    quantized_embedding,
    quantized_linear,
    quantized_linear_reference,
)

TYPES = list(BLOCK_TYPES)
SMALL_TYPES = [name for name in TYPES if BLOCK_TYPES[name].num_columns == 32]


def file_blocks(type_name: str, num_rows: int, num_columns: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(seed)) * 0.1
    return quantize_blocks(values, type_name)


def oracle(type_name: str, blocks: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[type_name]))


def fused(num_columns: int) -> tuple[PackedWeight, torch.Tensor]:
    """A weight of segments of all types that fit, none of them whole groups of 16 rows, and its dense values."""
    names = TYPES if num_columns % 256 == 0 else SMALL_TYPES
    segments = [(file_blocks(name, (37, 17, 3)[i % 3], num_columns, i), name) for i, name in enumerate(names)]
    return pack(segments, num_columns), torch.cat([oracle(name, blocks) for blocks, name in segments])


def activations(num_tokens: int, num_columns: int) -> torch.Tensor:
    x_TK = torch.randn(num_tokens, num_columns, generator=torch.Generator().manual_seed(7))
    x_TK[:, 3] *= 20  # outliers, as real activations have them
    return x_TK


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("shape", [(1, 1), (16, 2), (19, 9)])
def test_dequantize_yields_exactly_what_the_format_defines(type_name, shape):
    num_columns = shape[1] * BLOCK_TYPES[type_name].num_columns
    blocks = file_blocks(type_name, shape[0], num_columns)
    assert torch.equal(dequantize(pack([(blocks, type_name)], num_columns)), oracle(type_name, blocks))


@pytest.mark.parametrize("type_name", TYPES)
def test_packed_weights_take_hardly_more_memory_than_the_file(type_name):
    blocks = file_blocks(type_name, 32, 1536)
    # Scales of six bits take eight: at most an eighth of a bit a weight; and the scales end on a cache line.
    assert pack([(blocks, type_name)], 1536).num_bytes <= blocks.numel() + 32 * 1536 / 64 + 2 * 64


def test_segments_of_different_types_lie_one_below_the_other():
    weight, dense_NK = fused(96)
    assert (weight.num_rows, weight.num_columns) == (dense_NK.shape[0], 96)
    assert torch.equal(dequantize(weight), dense_NK)


@pytest.mark.parametrize("num_columns", [32, 96, 256, 576, 1536])
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 3, 7, 8, 21, 64])
def test_the_product_equals_the_reference_to_float32_rounding(instruction_set, num_tokens, num_columns):
    weight, dense_NK = fused(num_columns)
    x_TK = activations(num_tokens, num_columns)
    out_TN = quantized_linear(x_TK, weight)
    # Same integers; only float32 sums over K / 32 blocks differ: a few units in the last place of the magnitudes, of
    # which the products with d and with m may each be larger than their sum.
    magnitude_TN = x_TK.abs() @ dense_NK.abs().T
    assert ((out_TN - quantized_linear_reference(x_TK, weight)).abs() <= 4e-6 * magnitude_TN + 1e-6).all()


def test_the_product_is_near_that_of_unrounded_activations(instruction_set):
    weight, dense_NK = fused(768)
    x_TK = activations(16, 768)
    exact_TN = x_TK @ dense_NK.T
    # A rounding error is uniform in half a step, amax / 32512; over 768 of them they average out to about 4e-5.
    error = (quantized_linear(x_TK, weight) - exact_TN).norm() / exact_TN.norm()
    assert error < 6e-5


def test_a_row_is_bit_equal_alone_and_among_others(instruction_set):
    weight, _ = fused(576)
    x_TK = activations(33, 576)
    batch_TN = quantized_linear(x_TK, weight)
    for t in range(33):
        assert torch.equal(quantized_linear(x_TK[t : t + 1], weight)[0], batch_TN[t])


def test_a_long_batch_in_several_panels_is_bit_equal_to_short_ones(instruction_set):
    weight, _ = fused(1536)
    x_TK = activations(700, 1536)
    parts = [quantized_linear(part_TK, weight) for part_TK in x_TK.split(90)]
    assert torch.equal(quantized_linear(x_TK, weight), torch.cat(parts))


def test_the_result_does_not_depend_on_the_number_of_threads(instruction_set):
    weight, _ = fused(576)
    x_TK = activations(40, 576)
    before = torch.get_num_threads()
    expected_TN = quantized_linear(x_TK, weight)
    try:
        torch.set_num_threads(1)
        assert torch.equal(quantized_linear(x_TK, weight), expected_TN)
    finally:
        torch.set_num_threads(before)


def test_bfloat16_rows_give_what_their_float32_values_give(instruction_set):
    weight, _ = fused(96)
    x_TK = activations(5, 96).bfloat16()
    assert torch.equal(quantized_linear(x_TK, weight), quantized_linear(x_TK.float(), weight))


def test_rows_may_be_strided_and_the_output_may_be_given(instruction_set):
    weight, _ = fused(96)
    wide_TK = activations(6, 200)
    out_TN = torch.full((6, weight.num_rows), float("nan"))
    assert quantized_linear(wide_TK[:, 40:136], weight, out_TN) is out_TN
    assert torch.equal(out_TN, quantized_linear(wide_TK[:, 40:136].contiguous(), weight))


def test_a_nan_stays_in_its_row(instruction_set):
    weight, _ = fused(96)
    x_TK = activations(3, 96)
    x_TK[1, 50] = float("nan")
    out_TN = quantized_linear(x_TK, weight)
    assert out_TN[1].isnan().all()
    assert not out_TN[[0, 2]].isnan().any()


@pytest.mark.parametrize("ends", [[0, 0, 0], [5, 5, 6], [1, 20, 61]])
def test_a_product_of_groups_is_that_of_each_group(instruction_set, ends):
    weights = [pack([(file_blocks("Q4_K", 37, 512, seed), "Q4_K")], 512) for seed in range(3)]
    x_TK, ends_G = activations(ends[-1], 512), torch.tensor(ends)
    out_TN = grouped_linear(x_TK, weights, ends_G)
    for weight, start, end in zip(weights, [0, *ends], ends, strict=False):
        assert torch.equal(out_TN[start:end], quantized_linear(x_TK[start:end], weight))
    # The tolerance of the single product.
    assert torch.allclose(out_TN, grouped_linear_reference(x_TK, weights, ends_G), rtol=1e-4, atol=1e-3)


def test_groups_that_do_not_fit_are_refused_by_name():
    weights = [pack([(file_blocks("Q4_0", rows, 64), "Q4_0")], 64) for rows in (16, 16, 17)]
    x_TK = activations(4, 64)
    with pytest.raises(ValueError, match=r"ends\[1\].*`1`"):
        grouped_linear(x_TK, weights[:2], torch.tensor([2, 1]))
    with pytest.raises(ValueError, match="`weights`"):
        grouped_linear(x_TK, weights, torch.tensor([1, 2, 4]))
    with pytest.raises(ValueError, match="`ends`"):
        grouped_linear(x_TK, weights[:2], torch.tensor([4]))
    with pytest.raises(TypeError, match="`x`"):
        grouped_linear(x_TK.bfloat16(), weights[:2], torch.tensor([2, 4]))


def test_embedding_gathers_rows():
    weight, dense_NK = fused(512)
    ids_T = torch.tensor([56, 0, 36, 37, 53, 54, weight.num_rows - 1])
    assert torch.equal(quantized_embedding(ids_T, weight), dense_NK[ids_T])


def test_wrong_arguments_are_refused_by_name():
    blocks = file_blocks("Q4_0", 16, 64)
    with pytest.raises(ValueError, match=r"`IQ3_S` is not supported, expected one of `Q4_0`, .*`IQ4_XS`"):
        pack([(blocks, "IQ3_S")], 64)
    with pytest.raises(ValueError, match=r"`288`, expected a positive multiple of 256 .*`Q6_K`"):
        pack([(file_blocks("Q6_K", 1, 256), "Q6_K")], 288)
    with pytest.raises(ValueError, match="`48`"):
        pack([(blocks[:, :18].contiguous(), "Q4_0")], 48)
    with pytest.raises(ValueError, match="segment"):
        pack([(blocks, "Q4_1")], 64)
    weight = pack([(blocks, "Q4_0")], 64)
    with pytest.raises(ValueError, match="`x`"):
        quantized_linear(torch.zeros(2, 32), weight)
    with pytest.raises(TypeError, match="`x` is int64"):
        quantized_linear(torch.zeros(2, 64, dtype=torch.int64), weight)
    with pytest.raises(ValueError, match="strides"):
        quantized_linear(torch.zeros(64, 2).T, weight)
    with pytest.raises(ValueError, match="`out`"):
        quantized_linear(torch.zeros(2, 64), weight, torch.zeros(2, 17))
    with pytest.raises(ValueError, match="share memory"):
        square = pack([(file_blocks("Q4_0", 64, 64), "Q4_0")], 64)
        x_TK = torch.zeros(2, 64)
        quantized_linear(x_TK, square, x_TK)
    with pytest.raises(ValueError, match=r"ids\[1\].*`16`"):
        quantized_embedding(torch.tensor([0, 16]), weight)
    with pytest.raises(TypeError, match="expected torch"):
        quantized_linear([1.0], weight)
