"""Linear layers whose weights are divided over ranks; how a weight is held is the LinearMethod's business."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from forebay_worker.layers.loading import LayerLoader


@dataclasses.dataclass(frozen=True)
class Projection:
    """One weight of a merged column-parallel layer: `num_units` units (heads, neurons) of `unit_rows` rows each."""

    role: str
    num_units: int
    unit_rows: int = 1


class ColumnParallelLinear:
    """Outputs are divided: a rank computes its units of every projection. No exchange."""

    def __init__(self, loader: LayerLoader, projections: Sequence[Projection], num_columns: int) -> None:
        """Read this rank's rows of each projection and stack them."""
        segments = []
        for projection in projections:
            units = loader.group.shard(projection.num_units)
            rows = projection.unit_rows
            whole = loader.matrix(projection.role, projection.num_units * rows, num_columns)
            segments.append(whole.rows(units.start * rows, units.stop * rows))
        self._method = loader.linear(segments)

    def __call__(self, x_TK: Tensor) -> Tensor:
        """Each projection's local rows in turn: [T, sum of local rows]."""
        return self._method.apply(x_TK)


class RowParallelLinear:
    """Inputs are divided: a rank multiplies its columns, and the sum over ranks is the result."""

    def __init__(self, loader: LayerLoader, role: str, num_rows: int, num_columns: int) -> None:
        """Read this rank's columns."""
        columns = loader.group.shard(num_columns)
        self._group = loader.group
        self._method = loader.linear([loader.matrix(role, num_rows, num_columns).columns(columns.start, columns.stop)])

    def __call__(self, x_TK: Tensor) -> Tensor:
        """`x_TK`: this rank's inputs. Returns [T, num_rows], whole on every rank."""
        return self._group.all_reduce(self._method.apply(x_TK))
