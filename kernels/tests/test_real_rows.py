"""Every block type on rows of SmolLM2 that llama.cpp's quantizer rounded; `tools/requantize_smollm2.py` makes the file.

Random bytes and our own rounding, in the other tests, reach every bit of a format; files hold scales that were found by
search, and of either sign.
"""

from pathlib import Path

import gguf
import pytest
import torch

from forebay_kernels.ops.block_types import BLOCK_TYPES, dequantize_blocks
from forebay_kernels.ops.quantized_linear import dequantize, pack, quantized_linear, quantized_linear_reference

TENSORS = {
    tensor.name: tensor for tensor in gguf.GGUFReader(Path(__file__).parent / "fixtures/smollm2_rows.gguf").tensors
}
QUANTIZED = [name for name in TENSORS if name.partition("/")[0] in BLOCK_TYPES]
RELATIVE_ERROR = {"Q2_K": 0.35, "Q3_K": 0.18, "Q4_0": 0.1, "Q4_1": 0.1, "Q4_K": 0.08, "IQ4_NL": 0.09, "IQ4_XS": 0.09}
RELATIVE_ERROR |= {"Q5_0": 0.05, "Q5_1": 0.05, "Q5_K": 0.045, "Q6_K": 0.025, "Q8_0": 0.007}
"""Bound of the error's norm by that of the weights: what so many bits leave."""


def blocks_and_values(name: str) -> tuple[str, torch.Tensor, torch.Tensor]:
    """Type, the file's bytes, and the values that the gguf package reads there."""
    tensor = TENSORS[name]
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return tensor.tensor_type.name, torch.from_numpy(tensor.data.copy()), torch.from_numpy(values)


def test_every_type_has_rows():
    assert {name.partition("/")[0] for name in QUANTIZED} == set(BLOCK_TYPES)


@pytest.mark.parametrize("name", QUANTIZED)
def test_real_rows_decode_to_exactly_what_the_gguf_package_reads(name):
    type_name, blocks, expected_NK = blocks_and_values(name)
    assert torch.equal(dequantize_blocks(blocks, type_name), expected_NK)
    assert torch.equal(dequantize(pack([(blocks, type_name)], expected_NK.shape[1])), expected_NK)


@pytest.mark.parametrize("name", QUANTIZED)
def test_real_rows_are_the_weights_as_far_as_the_types_bits_go(name):
    type_name, _, values_NK = blocks_and_values(name)
    original_NK = torch.from_numpy(TENSORS["F32" + name[len(type_name) :]].data.copy())
    assert (values_NK - original_NK).norm() < RELATIVE_ERROR[type_name] * original_NK.norm()


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("num_tokens", [1, 9])
def test_products_with_real_rows_equal_the_reference(instruction_set, num_tokens, name):
    type_name, blocks, dense_NK = blocks_and_values(name)
    num_columns = dense_NK.shape[1]
    weight = pack([(blocks, type_name)], num_columns)
    x_TK = torch.randn(num_tokens, num_columns, generator=torch.Generator().manual_seed(11))
    x_TK[:, 7] *= 30  # an outlier, as real activations have them
    out_TN = quantized_linear(x_TK, weight)
    magnitude_TN = x_TK.abs() @ dense_NK.abs().T
    # The same integers: float32 sums over blocks differ by a few units in the last place of the magnitudes.
    assert ((out_TN - quantized_linear_reference(x_TK, weight)).abs() <= 4e-6 * magnitude_TN).all()
    # Activations of 16 bits: each off by at most half of amax / 32512 of its block, in which the outlier counts.
    exact_TN = (x_TK.double() @ dense_NK.double().T).float()
    assert (out_TN - exact_TN).norm() < 1e-4 * magnitude_TN.norm()
