"""Root-mean-square normalization, with the residual addition before it.

Shapes: T = tokens in the step, D = width that is normalized: the model's, or a head's.
"""

from torch import Tensor

from forebay_kernels.native import library, runs_native


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, residual_TD: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale each row of `h = x + residual` to unit root-mean-square, then by `weight_D`.

    float32 inside; `h` is rounded to x's dtype before it is normalized, as it is handed on.

    Args:
        x_TD: [T, D], or [T, heads, D] with each head normalized on its own; float32, float16 or bfloat16. A token's
            values are contiguous, the token stride is free (a part of a fused projection will do). Not modified.
        weight_D: float32, float16 or bfloat16, contiguous.
        eps: added to the mean of squares.
        residual_TD: like `x_TD`, or None for `h = x`. Not modified.

    Returns:
        (normalized, h), both contiguous, of x's shape and dtype; without a residual h is `x_TD` itself.

    Raises:
        ValueError: for a shape or stride that does not fit. TypeError: for a dtype.

    Source: arXiv 1910.07467, eq. 4.
    """
    if not runs_native(x_TD):
        return rms_norm_reference(x_TD, weight_D, eps, residual_TD)
    return library.rms_norm(x_TD, weight_D, eps, residual_TD)


def rms_norm_reference(
    x_TD: Tensor, weight_D: Tensor, eps: float, residual_TD: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute what `rms_norm` computes with torch operators, on any device."""
    h_TD = x_TD if residual_TD is None else (x_TD.float() + residual_TD.float()).to(x_TD.dtype)
    wide_TD = h_TD.float()
    scale_T1 = (wide_TD.pow(2).mean(dim=-1, keepdim=True) + eps).rsqrt()
    return (wide_TD * scale_T1 * weight_D.float()).to(x_TD.dtype), h_TD
