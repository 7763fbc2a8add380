"""Feed-forward layers. T = tokens, D = model width."""

from __future__ import annotations

from torch import Tensor

from forebay_kernels.ops.activation import ActivationKind, activation, gated_activation
from forebay_worker.layers.linear import ColumnParallelLinear, Projection, RowParallelLinear
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.models.spec import DecoderSpec


class SwiGluMlp:
    """down(silu(gate(x)) * up(x)). Source: arXiv 2002.05202."""

    kind: ActivationKind = "silu"

    def __init__(self, spec: DecoderSpec, loader: LayerLoader) -> None:
        """Read this rank's neurons."""
        width = spec.intermediate_size
        gate_up = (Projection("mlp.gate", width), Projection("mlp.up", width))
        self.gate_up = ColumnParallelLinear(loader, gate_up, spec.hidden_size)
        self.down = RowParallelLinear(loader, "mlp.down", spec.hidden_size, width)

    def __call__(self, x_TD: Tensor) -> Tensor:
        """[T, D], whole on every rank."""
        return self.down(gated_activation(self.gate_up(x_TD), self.kind))


class GeGluMlp(SwiGluMlp):
    """down(gelu(gate(x)) * up(x)), gelu by its tanh approximation. Source: arXiv 2002.05202."""

    kind = "gelu_tanh"


class GeluMlp:
    """down(gelu(up(x))), gelu by its tanh approximation: GPT-2's. Source: arXiv 1606.08415."""

    kind: ActivationKind = "gelu_tanh"

    def __init__(self, spec: DecoderSpec, loader: LayerLoader) -> None:
        """Read this rank's neurons."""
        width = spec.intermediate_size
        self._up = ColumnParallelLinear(loader, (Projection("mlp.up", width),), spec.hidden_size)
        self._down = RowParallelLinear(loader, "mlp.down", spec.hidden_size, width)

    def __call__(self, x_TD: Tensor) -> Tensor:
        """[T, D], whole on every rank."""
        return self._down(activation(self._up(x_TD), self.kind))


class ExactGeluMlp(GeluMlp):
    """The same with the exact gelu."""

    kind = "gelu"
