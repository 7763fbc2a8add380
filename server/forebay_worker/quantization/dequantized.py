"""Weights in GGUF's block types made plain when they are read: for devices that cannot multiply them packed."""

from __future__ import annotations

import torch
from torch import Tensor

from forebay_kernels.ops.block_types import dequantize_blocks
from forebay_worker.quantization.unquantized import UnquantizedLinear
from forebay_worker.weights.stored import StoredTensor

_VALUES_AT_ONCE = 1 << 24
"""Dequantizing holds some float32 and integer copies of its values: 64 MiB each."""


class DequantizedLinear(UnquantizedLinear):
    """A LinearMethod over torch's own matrix product; the values are those of the file, rounded to the dtype once."""

    def _fill(self, rows_NK: Tensor, segment: StoredTensor) -> None:
        if not segment.storage.is_quantized:
            super()._fill(rows_NK, segment)
            return
        num_rows = max(1, _VALUES_AT_ONCE // segment.num_columns)
        for start in range(0, segment.num_rows, num_rows):
            blocks = torch.from_numpy(segment.data[start : start + num_rows]).contiguous().to(rows_NK.device)
            rows_NK[start : start + num_rows].copy_(dequantize_blocks(blocks, segment.storage.name))
