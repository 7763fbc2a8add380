"""bfloat16 weights, packed for processors that multiply bfloat16 themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forebay_kernels.ops.bf16_linear import bf16_embedding, bf16_linear, pack_bf16
from forebay_worker.quantization.unquantized import UnquantizedLinear
from forebay_worker.weights.stored import StoredTensor


class Bf16Linear:
    """A LinearMethod over forebay_kernels' bfloat16 product."""

    packed = None

    def __init__(self, segments: Sequence[StoredTensor], dtype: torch.dtype, device: torch.device) -> None:
        """Stack `segments` (equal and even columns) by rows, rounded to bfloat16; `device` is the CPU."""
        assert dtype == torch.bfloat16 and device.type == "cpu", f"no packed product of {dtype} on {device}"
        self._weight = pack_bf16(UnquantizedLinear(segments, dtype, device).weight_NK)

    def apply(self, x_TK: Tensor) -> Tensor:
        """See LinearMethod."""
        return bf16_linear(x_TK, self._weight)

    def embed(self, ids_T: Tensor) -> Tensor:
        """See LinearMethod."""
        return bf16_embedding(ids_T, self._weight)
