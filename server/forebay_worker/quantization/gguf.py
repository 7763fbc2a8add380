"""Weights in GGUF's block types, multiplied as they are: activations are float32 at the kernel's edge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forebay_kernels.ops.quantized_linear import pack, quantized_embedding, quantized_linear
from forebay_worker.weights.stored import StoredTensor


class GgufLinear:
    """A LinearMethod over forebay_kernels' quantized product; segments may differ in type."""

    def __init__(self, segments: Sequence[StoredTensor], dtype: torch.dtype, device: torch.device) -> None:
        """Stack `segments` (equal columns) by rows; `device` is the CPU."""
        assert device.type == "cpu", f"no packed product on {device}"
        self._dtype = dtype
        self._weight = pack(
            [(torch.from_numpy(segment.data).contiguous(), segment.storage.name) for segment in segments],
            segments[0].num_columns,
        )
        self.packed = self._weight if dtype == torch.float32 else None

    def apply(self, x_TK: Tensor) -> Tensor:
        """See LinearMethod."""
        return quantized_linear(x_TK.float(), self._weight).to(x_TK.dtype)

    def embed(self, ids_T: Tensor) -> Tensor:
        """See LinearMethod."""
        return quantized_embedding(ids_T, self._weight).to(self._dtype)
