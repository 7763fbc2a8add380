"""Linear layers whose weights are divided over ranks; how a weight is held is the LinearMethod's business."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from forebay_worker.layers.loading import LayerLoader


@dataclasses.dataclass(frozen=True)
class Projection:
    """One weight of a merged column-parallel layer: `num_units` units (heads, neurons) of `unit_rows` rows each."""

    role: str
    num_units: int
    unit_rows: int = 1


class ColumnParallelLinear:
    """Outputs are divided: a rank computes its units of every projection, biases included. No exchange."""

    def __init__(self, loader: LayerLoader, projections: Sequence[Projection], num_columns: int) -> None:
        """Read this rank's rows of each projection and stack them."""
        segments, biases = [], []
        for projection in projections:
            units = loader.group.shard(projection.num_units)
            start, stop = units.start * projection.unit_rows, units.stop * projection.unit_rows
            num_rows = projection.num_units * projection.unit_rows
            segments.append(loader.matrix(projection.role, num_rows, num_columns).rows(start, stop))
            biases.append(loader.bias(projection.role, num_rows, start, stop))
        self._method = loader.linear(segments)
        self.packed = self._method.packed
        self.bias = _stacked(biases, [segment.num_rows for segment in segments])

    def __call__(self, x_TK: Tensor) -> Tensor:
        """Each projection's local rows in turn: [T, sum of local rows]."""
        out = self._method.apply(x_TK)
        return out if self.bias is None else out.add_(self.bias)


class RowParallelLinear:
    """Inputs are divided: a rank multiplies its columns, and the sum over ranks is the result."""

    def __init__(self, loader: LayerLoader, role: str, num_rows: int, num_columns: int) -> None:
        """Read this rank's columns."""
        columns = loader.group.shard(num_columns)
        self._group = loader.group
        self._method = loader.linear([loader.matrix(role, num_rows, num_columns).columns(columns.start, columns.stop)])
        self.packed = self._method.packed
        self._bias = loader.bias(role, num_rows, 0, num_rows)

    def __call__(self, x_TK: Tensor) -> Tensor:
        """`x_TK`: this rank's inputs. Returns [T, num_rows], whole on every rank."""
        return self.sum_over_ranks(self._method.apply(x_TK))

    @property
    def is_product(self) -> bool:
        """Whether the product is all: neither a sum over ranks nor a bias follows it."""
        return self._group.world_size == 1 and self._bias is None

    def sum_over_ranks(self, product_TN: Tensor) -> Tensor:
        """What this rank's product, which may be modified, is a summand of: whole on every rank, with the bias."""
        out = self._group.all_reduce(product_TN)
        return out if self._bias is None else out.add_(self._bias)


def _stacked(biases: Sequence[Tensor | None], num_rows: Sequence[int]) -> Tensor | None:
    """Biases one after another, zeros for a projection without; None if none has one."""
    present = [bias for bias in biases if bias is not None]
    if not present:
        return None
    zeros = [present[0].new_zeros(rows) for rows in num_rows]
    return torch.cat([zero if bias is None else bias for bias, zero in zip(biases, zeros, strict=True)])
