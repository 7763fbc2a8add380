"""Activations of a feed-forward layer, alone or as the gate of another half.

Shapes: T = tokens in the step, I = the layer's inner width.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor
from torch.nn.functional import gelu, silu

from forebay_kernels.native import library, runs_native

ActivationKind = Literal["silu", "gelu", "gelu_tanh"]
"""`gelu` is exact (by erf); `gelu_tanh` is what `transformers` calls `gelu_pytorch_tanh` and `gelu_new`."""

_FUNCTIONS: dict[ActivationKind, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
}


def activation(x_TI: Tensor, kind: ActivationKind) -> Tensor:
    """Return the activation of each element, [T, I] in the input's dtype; float32 inside.

    Args:
        x_TI: float32, float16 or bfloat16; rows contiguous (the row stride is free). Not modified.
        kind: which function.

    Raises:
        ValueError: for an unknown kind, or a shape or stride that does not fit. TypeError: for a dtype.

    Source: GELU, arXiv 1606.08415.
    """
    if not runs_native(x_TI):
        return activation_reference(x_TI, kind)
    return library.activation(x_TI, kind)


def activation_reference(x_TI: Tensor, kind: ActivationKind) -> Tensor:
    """Compute what `activation` computes with torch operators, on any device."""
    return _FUNCTIONS[kind](x_TI.float()).to(x_TI.dtype)


def gated_activation(gate_up_T2I: Tensor, kind: ActivationKind) -> Tensor:
    """Return `activation(gate) * up`, [T, I] in the input's dtype; float32 inside.

    Args:
        gate_up_T2I: float32, float16 or bfloat16, a row's first half gate, its second up; rows contiguous (the row
            stride is free). Not modified.
        kind: which function.

    Raises:
        ValueError: for an unknown kind, an odd width or a stride that does not fit. TypeError: for a dtype.

    Source: SwiGLU and GEGLU, arXiv 2002.05202.
    """
    if not runs_native(gate_up_T2I):
        return gated_activation_reference(gate_up_T2I, kind)
    return library.gated_activation(gate_up_T2I, kind)


def gated_activation_reference(gate_up_T2I: Tensor, kind: ActivationKind) -> Tensor:
    """Compute what `gated_activation` computes with torch operators, on any device."""
    gate_TI, up_TI = gate_up_T2I.float().chunk(2, dim=1)
    return (_FUNCTIONS[kind](gate_TI) * up_TI).to(gate_up_T2I.dtype)
