"""Weights as plain floating-point tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from forebay_worker.weights.stored import BF16, F16, F32, StoredTensor

TORCH_DTYPES = {F32.name: torch.float32, F16.name: torch.float16, BF16.name: torch.bfloat16}


def float_tensor(stored: StoredTensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A stored float tensor as [num_rows, num_columns] in `dtype`. Always copies: the file may go away."""
    raw = torch.from_numpy(stored.data).contiguous()
    view = raw.view(TORCH_DTYPES[stored.storage.name])
    return view.to(device=device, dtype=dtype, copy=True)


class UnquantizedLinear:
    """A LinearMethod over torch's own matrix product."""

    packed = None

    def __init__(self, segments: Sequence[StoredTensor], dtype: torch.dtype, device: torch.device) -> None:
        """Stack `segments` (equal columns) by rows."""
        num_rows = sum(segment.num_rows for segment in segments)
        self.weight_NK = torch.empty(num_rows, segments[0].num_columns, dtype=dtype, device=device)
        start = 0
        for segment in segments:
            self._fill(self.weight_NK[start : start + segment.num_rows], segment)
            start += segment.num_rows

    def _fill(self, rows_NK: Tensor, segment: StoredTensor) -> None:
        raw = torch.from_numpy(segment.data).contiguous()
        rows_NK.copy_(raw.view(TORCH_DTYPES[segment.storage.name]))

    def apply(self, x_TK: Tensor) -> Tensor:
        """See LinearMethod."""
        return F.linear(x_TK, self.weight_NK)

    def embed(self, ids_T: Tensor) -> Tensor:
        """See LinearMethod."""
        return F.embedding(ids_T, self.weight_NK)
