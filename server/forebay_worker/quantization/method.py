"""What every scheme offers to layers."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class LinearMethod(Protocol):
    """A weight matrix [N, K] in some storage. T = tokens, K = inputs, N = outputs."""

    def apply(self, x_TK: Tensor) -> Tensor:
        """`x_TK` times the transposed matrix: [T, N], in x's dtype."""

    def embed(self, ids_T: Tensor) -> Tensor:
        """The matrix's rows at `ids_T` (int64, in range): [T, K], in the model's dtype."""
