"""Matrix products with GGUF's weights of 2 to 8 bits, computed on the packed weights.

Shapes: T = tokens in the step, K = input features (num_columns), N = output features (num_rows), B = K / 32 blocks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from forebay_kernels import _native
from forebay_kernels._native import PackedWeight

__all__ = [
    "PackedWeight",
    "dequantize",
    "grouped_linear",
    "grouped_linear_reference",
    "pack",
    "quantized_embedding",
    "quantized_linear",
    "quantized_linear_reference",
]

BLOCK_SIZE = 32
"""Columns that share a scale in activations."""

_LARGEST = 127.0 * 256.0
"""What the largest magnitude of a block of activations becomes."""


def pack(segments: Sequence[tuple[Tensor, str]], num_columns: int) -> PackedWeight:
    """Pack weights from a GGUF file for `quantized_linear`; segments lie one below the other (fused projections).

    Args:
        segments: (uint8 [rows, row_bytes] blocks as in the file, a name in `block_types.BLOCK_TYPES`) each; types may
            differ. The tensors are copied from, not kept.
        num_columns: K, a multiple of every type's block (32 or 256).

    Raises:
        ValueError: for a type or a shape without a kernel, naming it.

    Source: block layouts of ggml-common.h.
    """
    return _native.pack(segments, num_columns)


def quantized_linear(x_TK: Tensor, weight: PackedWeight, out: Tensor | None = None) -> Tensor:
    """Multiply each row of `x_TK` with the weight: `out[t, n] = sum_k x[t, k] * weight[n, k]`.

    The activations of a row are rounded to 16 bits by blocks of 32 (scale = amax / 32512); integer dot products a
    block, float32 sums over blocks in one fixed order: a row's result is bit-equal whatever other rows are in the call.

    Args:
        x_TK: float32 or bfloat16, rows contiguous (the row stride is free), in CPU memory. Not modified.
        weight: from `pack`, N x K.
        out: float32 [T, N] contiguous to write into; made when None.

    Returns:
        float32 [T, N]. A row with NaN or infinity yields NaN.

    Raises:
        ValueError: for a shape, stride or device that does not fit. TypeError: for another dtype.
    """
    return _native.quantized_linear(x_TK, weight, out)


def quantized_linear_reference(x_TK: Tensor, weight: PackedWeight) -> Tensor:
    """Compute what `quantized_linear` computes with torch operators: the same rounding of activations, float64 sums.

    Returns:
        float32 [T, N]; the kernel differs from it by the rounding of float32 sums only.
    """
    x_TBk = x_TK.to(torch.float32).reshape(x_TK.shape[0], x_TK.shape[1] // BLOCK_SIZE, BLOCK_SIZE)
    amax_TB1 = x_TBk.abs().amax(dim=2, keepdim=True)
    inverse_TB1 = torch.where(amax_TB1 > 0, _LARGEST / amax_TB1, 0.0)
    rounded_TBk = (x_TBk * inverse_TB1).round()
    quantized_TK = (rounded_TBk.double() * (amax_TB1 / _LARGEST)).flatten(1)
    out_TN: Tensor = (quantized_TK @ dequantize(weight).double().T).float()
    return out_TN


def grouped_linear(x_TK: Tensor, weights_G: Sequence[PackedWeight], ends_G: Tensor) -> Tensor:
    """Multiply each row of `x_TK` with the weight of its group, all groups in one call: a layer of experts.

    Args:
        x_TK: float32, rows contiguous (the row stride is free), in CPU memory. Not modified.
        weights_G: from `pack`, each N x K.
        ends_G: int64, contiguous, in CPU memory: group g has the rows from the end of the one before to `ends_G[g]`.

    Returns:
        float32 [T, N], each row bit-equal to what `quantized_linear` gives. A row with NaN or infinity yields NaN.

    Raises:
        ValueError: for weights of different shapes, or ends that do not fit the rows. TypeError: for another dtype.
    """
    return _native.grouped_linear(x_TK, weights_G, ends_G)


def grouped_linear_reference(x_TK: Tensor, weights_G: Sequence[PackedWeight], ends_G: Tensor) -> Tensor:
    """Compute what `grouped_linear` computes group by group; float32 [T, N]."""
    starts_G = [0, *ends_G.tolist()]
    spans = zip(weights_G, starts_G, ends_G.tolist(), strict=False)
    return torch.cat([quantized_linear_reference(x_TK[start:end], weight) for weight, start, end in spans])


def dequantize(weight: PackedWeight) -> Tensor:
    """Return the weight's values, float32 [N, K]: exactly what the file's format defines."""
    return _native.dequantize(weight)


def quantized_embedding(ids_T: Tensor, weight: PackedWeight) -> Tensor:
    """Gather rows of the weight and dequantize them: for embeddings that share the output head's packed weight.

    Args:
        ids_T: int64 row indices, contiguous, in CPU memory.
        weight: from `pack`, N x K.

    Returns:
        float32 [T, K].

    Raises:
        ValueError: for an index outside [0, N), naming it.
    """
    return _native.quantized_embedding(ids_T, weight)
