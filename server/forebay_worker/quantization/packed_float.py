"""Floating-point weights packed for the kernels' own product: on CPU faster than torch's, and row by row the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forebay_kernels.ops.float_linear import float_embedding, float_linear, pack_float
from forebay_worker.quantization.unquantized import UnquantizedLinear
from forebay_worker.weights.stored import StoredTensor


class PackedFloatLinear:
    """A LinearMethod over forebay_kernels' float product; a row's result does not depend on the other rows."""

    packed = None

    def __init__(self, segments: Sequence[StoredTensor], dtype: torch.dtype, device: torch.device) -> None:
        """Stack `segments` (equal columns) by rows, rounded to `dtype`; `device` is the CPU.

        What the kernel has no product for, float16 and bfloat16 of an odd width, is held and multiplied in float32.
        """
        assert device.type == "cpu", f"no packed product on {device}"
        is_native = dtype == torch.float32 or (dtype == torch.bfloat16 and segments[0].num_columns % 2 == 0)
        self._dtype = dtype
        self._packed_dtype = dtype if is_native else torch.float32
        weight_NK = UnquantizedLinear(segments, dtype, device).weight_NK
        self._weight = pack_float(weight_NK.to(self._packed_dtype))

    def apply(self, x_TK: Tensor) -> Tensor:
        """See LinearMethod."""
        return float_linear(x_TK.to(self._packed_dtype), self._weight).to(x_TK.dtype)

    def embed(self, ids_T: Tensor) -> Tensor:
        """See LinearMethod."""
        return float_embedding(ids_T, self._weight).to(self._dtype)
