"""Storage type -> scheme. A matrix whose segments need different schemes is held as one part for each."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from forebay_kernels.native import library, native_info, native_serves
from forebay_worker.quantization.method import LinearMethod
from forebay_worker.weights.stored import FLOAT_TYPES, QUANTIZED_TYPES, StoredTensor

_UNQUANTIZED = "forebay_worker.quantization.unquantized:UnquantizedLinear"
_GGUF = "forebay_worker.quantization.gguf:GgufLinear"
_PACKED_FLOAT = "forebay_worker.quantization.packed_float:PackedFloatLinear"
_DEQUANTIZED = "forebay_worker.quantization.dequantized:DequantizedLinear"

SCHEMES = {
    **{storage.name: _UNQUANTIZED for storage in FLOAT_TYPES},
    **{storage.name: _GGUF for storage in QUANTIZED_TYPES},
}
"""Imported when first needed: a float model does not load the kernels."""


def linear_method(
    segments: Sequence[StoredTensor], dtype: torch.dtype, device: torch.device, *, deterministic: bool = False
) -> LinearMethod:
    """The matrix of `segments` stacked by rows; in `dtype`, but for what is quantized and can be multiplied packed.

    deterministic: whether a row's result may not depend on the other rows; only where the native kernels serve.
    """
    if not native_serves(device) and any(segment.storage.is_quantized for segment in segments):
        return _made(_DEQUANTIZED, segments, dtype, device)
    is_packed_float = native_serves(device) and (deterministic or _multiplies_faster(dtype, segments[0].num_columns))
    groups = [list(group) for _, group in itertools.groupby(segments, lambda one: SCHEMES[one.storage.name])]
    schemes = [SCHEMES[group[0].storage.name] for group in groups]
    if is_packed_float:
        schemes = [_PACKED_FLOAT if scheme == _UNQUANTIZED else scheme for scheme in schemes]
    parts = [_made(scheme, group, dtype, device) for scheme, group in zip(schemes, groups, strict=True)]
    return parts[0] if len(parts) == 1 else StackedLinear(parts)


def _multiplies_faster(dtype: torch.dtype, num_columns: int) -> bool:
    """Whether the native float product is measured faster than torch's, at every number of rows."""
    if dtype == torch.float32:
        return native_info()["instruction_set"] != "portable"
    return dtype == torch.bfloat16 and num_columns % 2 == 0 and library.multiplies_bf16()


def _made(scheme: str, segments: Sequence[StoredTensor], dtype: torch.dtype, device: torch.device) -> LinearMethod:
    module, _, name = scheme.partition(":")
    method: LinearMethod = getattr(importlib.import_module(module), name)(segments, dtype, device)
    return method


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
