"""The gate of a gated feed-forward layer.

Shapes: T = tokens in the step, I = the layer's inner width.
"""

from torch import Tensor
from torch.nn.functional import silu

from forebay_kernels import _native


def silu_and_mul(gate_up_T2I: Tensor) -> Tensor:
    """Return `silu(gate) * up`, [T, I] in the input's dtype; float32 inside.

    Args:
        gate_up_T2I: float32, float16 or bfloat16, a row's first half gate, its second up; rows contiguous (the row
            stride is free). Not modified.

    Raises:
        ValueError: for an odd width or a stride that does not fit. TypeError: for a dtype.

    Source: SwiGLU, arXiv 2002.05202.
    """
    if not gate_up_T2I.is_cpu:
        return silu_and_mul_reference(gate_up_T2I)
    return _native.silu_and_mul(gate_up_T2I)


def silu_and_mul_reference(gate_up_T2I: Tensor) -> Tensor:
    """Compute what `silu_and_mul` computes with torch operators, on any device."""
    gate_TI, up_TI = gate_up_T2I.float().chunk(2, dim=1)
    return (silu(gate_TI) * up_TI).to(gate_up_T2I.dtype)
