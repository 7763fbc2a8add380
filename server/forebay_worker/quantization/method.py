"""What every scheme offers to layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from forebay_kernels.ops.quantized_linear import PackedWeight


class LinearMethod(Protocol):
    """A weight matrix [N, K] in some storage. T = tokens, K = inputs, N = outputs."""

    @property
    def packed(self) -> PackedWeight | None:
        """The same for kernels that do more than multiply; None if there is none, or if inputs are not float32."""

    def apply(self, x_TK: Tensor) -> Tensor:
        """`x_TK` times the transposed matrix: [T, N], in x's dtype."""

    def embed(self, ids_T: Tensor) -> Tensor:
        """The matrix's rows at `ids_T` (int64, in range): [T, K], in the model's dtype."""
