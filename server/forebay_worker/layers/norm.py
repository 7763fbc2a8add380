"""Normalization. T = tokens in the step, D = model width."""

from __future__ import annotations

from torch import Tensor

from forebay_kernels.ops.rms_norm import rms_norm
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.models.spec import DecoderSpec


class RmsNorm:
    """Root-mean-square norm that also adds the residual stream. Source: arXiv 1910.07467, eq. 4."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, role: str) -> None:
        """Read the weight of `role`."""
        self._weight_D = loader.vector(role, spec.hidden_size)
        self._eps = spec.norm_eps

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add `x_TD` to the residual, if there is one, and normalize the sum: (normalized, sum). float32 inside."""
        return rms_norm(x_TD, self._weight_D, self._eps, residual_TD)
