"""Normalization. T = tokens in the step, D = model width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from forebay_worker.layers.loading import LayerLoader
from forebay_worker.models.spec import DecoderSpec


class RmsNorm:
    """Root-mean-square norm that also adds the residual stream. Source: arXiv 1910.07467, eq. 4."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, role: str) -> None:
        """Read the weight of `role`."""
        self._weight_D = loader.vector(role, spec.hidden_size)
        self._eps = spec.norm_eps

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add `x_TD` to the residual, if there is one, and normalize the sum: (normalized, sum).

        float32 inside; rounded to x's dtype before the weight is applied, as transformers does.
        """
        total_TD = x_TD if residual_TD is None else residual_TD + x_TD
        normal_TD = F.rms_norm(total_TD.float(), self._weight_D.shape, eps=self._eps)
        return self._weight_D * normal_TD.to(total_TD.dtype), total_TD
