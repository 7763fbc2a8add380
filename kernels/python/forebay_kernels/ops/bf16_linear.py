"""Matrix products of bfloat16 activations with bfloat16 weights, summed in float32.

Shapes: T = tokens in the step, K = input features (num_columns), N = output features (num_rows).
"""

from torch import Tensor

from forebay_kernels import _native
from forebay_kernels._native import Bf16Weight

__all__ = ["Bf16Weight", "bf16_embedding", "bf16_linear", "bf16_linear_reference", "pack_bf16"]


def pack_bf16(weight_NK: Tensor) -> Bf16Weight:
    """Pack a weight for `bf16_linear`: 16 rows interleaved, by pairs of columns.

    Args:
        weight_NK: bfloat16, contiguous, in CPU memory, K even. It is copied from, not kept.

    Raises:
        ValueError: for an odd K or a shape that does not fit. TypeError: for another dtype.
    """
    return _native.pack_bf16(weight_NK)


def bf16_linear(x_TK: Tensor, weight: Bf16Weight) -> Tensor:
    """Multiply each row of `x_TK` with the weight: `out[t, n] = sum_k x[t, k] * weight[n, k]`.

    Nothing is rounded but the float32 sum, which runs over K in order (so that a row's result is bit-equal whatever
    other rows are in the call), and the result. Subnormal values may count as zero.

    Args:
        x_TK: bfloat16, rows contiguous (the row stride is free), in CPU memory. Not modified.
        weight: from `pack_bf16`, N x K.

    Returns:
        bfloat16 [T, N].

    Raises:
        ValueError: for a shape, stride or device that does not fit. TypeError: for another dtype.
    """
    return _native.bf16_linear(x_TK, weight)


def bf16_linear_reference(x_TK: Tensor, weight_NK: Tensor) -> Tensor:
    """Compute what `bf16_linear` computes with torch operators, from the unpacked weight: sums in float64.

    Returns:
        float64 [T, N], not rounded: the kernel is off by half a unit of bfloat16 and by its float32 sum's error.
    """
    out_TN: Tensor = x_TK.double() @ weight_NK.double().T
    return out_TN


def bf16_embedding(ids_T: Tensor, weight: Bf16Weight) -> Tensor:
    """Gather rows of the weight: for embeddings that share the output head's packed weight.

    Args:
        ids_T: int64 row indices, contiguous, in CPU memory.
        weight: from `pack_bf16`, N x K.

    Returns:
        bfloat16 [T, K].

    Raises:
        ValueError: for an index outside [0, N), naming it.
    """
    return _native.bf16_embedding(ids_T, weight)
