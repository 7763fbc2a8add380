"""Matrix products of activations with weights of the same type, float32 or bfloat16, summed in float32.

Shapes: T = tokens in the step, K = input features (num_columns), N = output features (num_rows).
"""

from torch import Tensor

from forebay_kernels import _native
from forebay_kernels._native import FloatWeight

__all__ = ["FloatWeight", "float_embedding", "float_linear", "float_linear_reference", "pack_float"]


def pack_float(weight_NK: Tensor) -> FloatWeight:
    """Pack a weight for `float_linear`: 16 rows interleaved, by columns of float32 or pairs of columns of bfloat16.

    Args:
        weight_NK: float32, or bfloat16 with K even; contiguous, in CPU memory. It is copied from, not kept.

    Raises:
        ValueError: for an odd K of bfloat16 or a shape that does not fit. TypeError: for another dtype.
    """
    return _native.pack_float(weight_NK)


def float_linear(x_TK: Tensor, weight: FloatWeight) -> Tensor:
    """Multiply each row of `x_TK` with the weight: `out[t, n] = sum_k x[t, k] * weight[n, k]`.

    The float32 sum runs over K in one order (of float32 in stretches of 256, whose sums are added in turn), so that a
    row's result is bit-equal whatever other rows are in the call. Subnormal values of bfloat16 may count as zero.

    Args:
        x_TK: of the weight's dtype, rows contiguous (the row stride is free), in CPU memory. Not modified.
        weight: from `pack_float`, N x K.

    Returns:
        [T, N] in x's dtype, rounded once.

    Raises:
        ValueError: for a shape, stride or device that does not fit. TypeError: for another dtype.
    """
    return _native.float_linear(x_TK, weight)


def float_linear_reference(x_TK: Tensor, weight_NK: Tensor) -> Tensor:
    """Compute what `float_linear` computes with torch operators, from the unpacked weight: sums in float64.

    Returns:
        float64 [T, N], not rounded: the kernel is off by its dtype's rounding and by its float32 sum's error.
    """
    out_TN: Tensor = x_TK.double() @ weight_NK.double().T
    return out_TN


def float_embedding(ids_T: Tensor, weight: FloatWeight) -> Tensor:
    """Gather rows of the weight: for embeddings that share the output head's packed weight.

    Args:
        ids_T: int64 row indices, contiguous, in CPU memory.
        weight: from `pack_float`, N x K.

    Returns:
        [T, K] in the weight's dtype.

    Raises:
        ValueError: for an index outside [0, N), naming it.
    """
    return _native.float_embedding(ids_T, weight)
