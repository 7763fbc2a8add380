"""All experts of a layer in two products, for weights that are multiplied packed. Needs the native kernels.

P = pairs of a token and an expert, sorted by expert, D = model width, E = experts, I = an expert's inner width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from forebay_kernels.ops.activation import gated_activation
from forebay_kernels.ops.quantized_linear import PackedWeight, grouped_linear


class PackedExperts:
    """See Experts."""

    def __init__(self, gate_up: Sequence[PackedWeight], down: Sequence[PackedWeight]) -> None:
        """Each expert's weights, 2I x D (gate first) and D x I."""
        self._gate_up, self._down = gate_up, down

    def __call__(self, x_PD: Tensor, ends_E: Tensor) -> Tensor:
        """See Experts."""
        inner_PI = gated_activation(grouped_linear(x_PD, self._gate_up, ends_E), "silu")
        return grouped_linear(inner_PI, self._down, ends_E)
