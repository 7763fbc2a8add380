"""What a layer needs while it is built: the checkpoint, its rank, dtype and device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.quantization.method import LinearMethod
from forebay_worker.quantization.registry import linear_method
from forebay_worker.quantization.unquantized import float_tensor
from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.names import Checkpoint
from forebay_worker.weights.stored import StoredTensor


@dataclasses.dataclass(frozen=True)
class LayerLoader:
    """Reads weights by role, for one layer (`layer` None: outside the layers)."""

    checkpoint: Checkpoint
    group: ProcessGroup
    dtype: torch.dtype
    layer: int | None = None
    expert: int | None = None
    deterministic: bool = False
    """Whether no row's result may depend on the other rows of a step."""

    def at(self, layer: int) -> LayerLoader:
        """The same for one layer."""
        return dataclasses.replace(self, layer=layer)

    def of_expert(self, expert: int) -> LayerLoader:
        """The same for one expert of the layer."""
        return dataclasses.replace(self, expert=expert)

    def matrix(self, role: str, num_rows: int, num_columns: int) -> StoredTensor:
        """A whole weight [num_rows, num_columns], undecoded. Raises: ModelRefusedError if its shape is another."""
        stored = self.checkpoint.read(role, self.layer, self.expert)
        if (stored.num_rows, stored.num_columns) != (num_rows, num_columns):
            raise ModelRefusedError(
                f"tensor `{stored.name}` is [{stored.num_rows}, {stored.num_columns}], "
                f"the configuration says [{num_rows}, {num_columns}]"
            )
        return stored

    def vector(self, role: str, size: int, dtype: torch.dtype | None = None) -> Tensor:
        """A float vector [size], whole on every rank. Raises: ModelRefusedError if it is of another size or kind."""
        stored = self.matrix(role, 1, size)
        if stored.storage.is_quantized:
            raise ModelRefusedError(f"tensor `{stored.name}` has type `{stored.storage.name}`, expected a float type")
        return float_tensor(stored, dtype or self.dtype, self.group.device)[0]

    def bias(self, role: str, num_rows: int, start: int, stop: int) -> Tensor | None:
        """Elements `start` to `stop` of the bias [num_rows] of a linear layer; None if the description has none."""
        if not self.checkpoint.describes(role + ".bias"):
            return None
        return self.vector(role + ".bias", num_rows)[start:stop]

    def linear(self, segments: Sequence[StoredTensor]) -> LinearMethod:
        """Segments of equal width, stacked by rows, ready to multiply with."""
        return linear_method(segments, self.dtype, self.group.device, deterministic=self.deterministic)
