"""Normalization. T = tokens in the step, D = model width, or a head's."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from forebay_kernels.ops.rms_norm import rms_norm
from forebay_worker.layers.loading import LayerLoader


class Norm(Protocol):
    """What every norm offers."""

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add `x_TD` to the residual, if there is one, and normalize the sum: (normalized, sum)."""


class RmsNorm:
    """Root-mean-square norm that also adds the residual stream. Source: arXiv 1910.07467, eq. 4."""

    def __init__(self, loader: LayerLoader, role: str, size: int, eps: float) -> None:
        """Read the weight [size] of `role`."""
        self.weight_D = loader.vector(role, size)
        self.eps = eps

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add `x_TD` to the residual, if there is one, and normalize the sum: (normalized, sum). float32 inside.

        [T, heads, D] is normalized head by head.
        """
        return rms_norm(x_TD, self.weight_D, self.eps, residual_TD)


class UnitOffsetRmsNorm(RmsNorm):
    """The same with weights stored as their difference from 1, as Gemma does."""

    def __init__(self, loader: LayerLoader, role: str, size: int, eps: float) -> None:
        """Read the weight [size] of `role`; the sum with 1 stays in float32."""
        super().__init__(loader, role, size, eps)
        self.weight_D = 1.0 + loader.vector(role, size, torch.float32)


class LayerNorm:
    """Mean and variance normalized, with weight and, if described, bias; also adds the residual stream.

    Source: arXiv 1607.06450.
    """

    def __init__(self, loader: LayerLoader, role: str, size: int, eps: float) -> None:
        """Read weight and bias [size] of `role`."""
        self._weight_D = loader.vector(role, size)
        self._bias_D = loader.bias(role, size, 0, size)
        self._eps = eps

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add `x_TD` to the residual, if there is one, and normalize the sum: (normalized, sum). float32 inside."""
        sum_TD = x_TD if residual_TD is None else x_TD + residual_TD
        return F.layer_norm(sum_TD, self._weight_D.shape, self._weight_D, self._bias_D, self._eps), sum_TD
