"""The torch dequantizer and the simple quantizer against the gguf package's definitions."""

import gguf
import numpy as np
import pytest
import torch

from forebay_kernels.ops.block_types import BLOCK_TYPES, dequantize_blocks
from forebay_kernels.ops.quantize_blocks import quantize_blocks
from forebay_kernels.ops.quantized_linear import dequantize, pack

TYPES = list(BLOCK_TYPES)
RELATIVE_ERROR = {2: 0.45, 3: 0.25, 4: 0.1, 5: 0.05, 6: 0.025, 8: 0.006}
"""Bits -> bound of the error's norm by that of normal values, whose groups span some four deviations."""


def oracle(blocks: torch.Tensor, type_name: str) -> torch.Tensor:
    return torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[type_name]))


def random_blocks(type_name: str, num_rows: int, num_blocks: int) -> torch.Tensor:
    """Any bytes, with finite float16s."""
    kind = BLOCK_TYPES[type_name]
    rng = np.random.default_rng(TYPES.index(type_name))
    blocks = rng.integers(0, 256, (num_rows, num_blocks, kind.num_bytes), dtype=np.uint8)
    for at in kind.halves:
        blocks[..., at : at + 2] = rng.normal(0, 1, (num_rows, num_blocks, 1)).astype(np.float16).view(np.uint8)
    return torch.from_numpy(blocks.reshape(num_rows, -1))


@pytest.mark.parametrize("type_name", TYPES)
def test_sizes_are_those_of_the_gguf_package(type_name):
    kind = BLOCK_TYPES[type_name]
    assert (kind.num_columns, kind.num_bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]


@pytest.mark.parametrize("type_name", TYPES)
def test_any_bytes_decode_to_exactly_what_the_format_defines_in_torch_and_packed(type_name):
    blocks = random_blocks(type_name, 21, 6)
    expected_NK = oracle(blocks, type_name)
    assert torch.equal(dequantize_blocks(blocks, type_name), expected_NK)
    assert torch.equal(dequantize(pack([(blocks, type_name)], expected_NK.shape[1])), expected_NK)


@pytest.mark.parametrize("type_name", TYPES)
def test_the_quantizer_is_off_by_little_more_than_half_a_step(type_name):
    values_NK = torch.randn(8, 1024, generator=torch.Generator().manual_seed(3)) * 0.05
    error = (oracle(quantize_blocks(values_NK, type_name), type_name) - values_NK).norm() / values_NK.norm()
    assert error < RELATIVE_ERROR[sum(plane.bits for plane in BLOCK_TYPES[type_name].planes)]


@pytest.mark.parametrize("type_name", TYPES)
def test_zeros_are_zeros_in_every_type(type_name):
    zeros_NK = torch.zeros(2, 512)
    assert torch.equal(oracle(quantize_blocks(zeros_NK, type_name), type_name), zeros_NK)
    empty = torch.zeros_like(quantize_blocks(zeros_NK, type_name))
    assert torch.equal(dequantize(pack([(empty, type_name)], 512)), zeros_NK)
