"""The feed-forward half of a decoder layer in one call: norm, gate and up, activation, down.

Shapes: T = tokens in the step, D = model width, I = the layer's inner width.
"""

import dataclasses

from torch import Tensor

from forebay_kernels import _native
from forebay_kernels.ops.activation import ActivationKind, gated_activation_reference
from forebay_kernels.ops.quantized_linear import PackedWeight, quantized_linear_reference
from forebay_kernels.ops.rms_norm import rms_norm_reference


@dataclasses.dataclass(frozen=True)
class MlpWeights:
    """What is fixed of one layer."""

    norm_weight_D: Tensor
    """float32, contiguous, in CPU memory."""
    norm_eps: float
    gate_up: PackedWeight
    """2I x D, gate first."""
    gate_up_bias: Tensor | None
    """float32 [2I], contiguous, in CPU memory."""
    kind: ActivationKind
    """The gate's activation."""
    down: PackedWeight
    """D x I."""


class MlpSublayer:
    """`down(kind(gate(norm(h))) * up(norm(h)))`, where `h` is the residual stream with the input added."""

    def __init__(self, weights: MlpWeights) -> None:
        """Copy the vectors and keep the packed weights.

        Raises:
            ValueError: for an unknown activation, or a vector that is not one. TypeError: for a dtype.
        """
        self.weights = weights
        # What `Sublayers` takes.
        self.native = _native.MlpSublayer(
            weights.norm_weight_D,
            weights.norm_eps,
            weights.gate_up,
            weights.gate_up_bias,
            weights.kind,
            weights.down,
        )

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (result, h), both float32 and new; without a residual `h` is `x_TD`.

        Equal to `rms_norm`, `quantized_linear`, the bias, `gated_activation` and `quantized_linear` one after another,
        to the bit; a row is bit-equal whatever other rows are in the call, and on any number of threads.

        Args:
            x_TD: float32, rows contiguous (the row stride is free), in CPU memory. Not modified.
            residual_TD: like `x_TD`.

        Raises:
            ValueError: for a shape, stride or device that does not fit. TypeError: for another dtype.
        """
        return self.native(x_TD, residual_TD)


def mlp_sublayer_reference(x_TD: Tensor, residual_TD: Tensor | None, weights: MlpWeights) -> tuple[Tensor, Tensor]:
    """Compute what `MlpSublayer` computes by the references of the ops that it is made of."""
    normed_TD, sum_TD = rms_norm_reference(x_TD, weights.norm_weight_D, weights.norm_eps, residual_TD)
    gate_up_T2I = quantized_linear_reference(normed_TD, weights.gate_up)
    if weights.gate_up_bias is not None:
        gate_up_T2I += weights.gate_up_bias
    activated_TI = gated_activation_reference(gate_up_T2I, weights.kind)
    return quantized_linear_reference(activated_TI, weights.down), sum_TD
