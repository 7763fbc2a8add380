"""Storage type -> scheme. A matrix whose segments need different schemes is held as one part for each."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from forebay_worker.quantization.method import LinearMethod
from forebay_worker.weights.stored import FLOAT_TYPES, QUANTIZED_TYPES, StoredTensor

_UNQUANTIZED = "forebay_worker.quantization.unquantized:UnquantizedLinear"
_GGUF = "forebay_worker.quantization.gguf:GgufLinear"

SCHEMES = {
    **{storage.name: _UNQUANTIZED for storage in FLOAT_TYPES},
    **{storage.name: _GGUF for storage in QUANTIZED_TYPES},
}
"""Imported when first needed: a float model does not load the kernels."""


def linear_method(segments: Sequence[StoredTensor], dtype: torch.dtype, device: torch.device) -> LinearMethod:
    """The matrix of `segments` stacked by rows, in `dtype` where it is not quantized."""
    groups = [list(group) for _, group in itertools.groupby(segments, lambda one: SCHEMES[one.storage.name])]
    parts: list[LinearMethod] = []
    for group in groups:
        module, _, name = SCHEMES[group[0].storage.name].partition(":")
        parts.append(getattr(importlib.import_module(module), name)(group, dtype, device))
    return parts[0] if len(parts) == 1 else StackedLinear(parts)


class StackedLinear:
    """A LinearMethod whose rows are several methods' rows, one after another."""

    packed = None

    def __init__(self, parts: Sequence[LinearMethod]) -> None:
        self._parts = parts

    def apply(self, x_TK: Tensor) -> Tensor:
        """See LinearMethod."""
        return torch.cat([part.apply(x_TK) for part in self._parts], dim=-1)

    def embed(self, ids_T: Tensor) -> Tensor:
        """An embedding is one tensor, hence one part."""
        raise AssertionError("an embedding has one storage type")
