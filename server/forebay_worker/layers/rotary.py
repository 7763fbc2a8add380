"""Rotary position embedding over halves, as transformers lays out heads.

T = tokens, H = heads, D = head_dim. Source: arXiv 2104.09864; llama3: Llama 3.1's `rope_scaling`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from forebay_worker.layers.loading import LayerLoader
from forebay_worker.models.spec import RopeSpec


@dataclasses.dataclass(frozen=True)
class Rotation:
    """Cosines and signed sines of a step's positions, ready for every layer."""

    cos_T1D: Tensor
    sin_T1D: Tensor
    """First half negated: what is rotated in comes from the other half."""

    def __call__(self, x_THD: Tensor) -> Tensor:
        """Rotate heads; a new contiguous tensor. The products and their order are those of transformers."""
        first, second = x_THD.chunk(2, dim=-1)
        swapped = torch.cat((second, first), dim=-1)
        return (x_THD * self.cos_T1D).add_(swapped.mul_(self.sin_T1D))


class RotaryEmbedding:
    """Cosines and sines of every position, computed in float32 and then rounded to the model's dtype."""

    def __init__(self, spec: RopeSpec, max_position_embeddings: int, loader: LayerLoader) -> None:
        """Compute the tables; half of each, for the halves are equal."""
        frequencies = FREQUENCIES[spec.kind](spec, loader)
        positions = torch.arange(max_position_embeddings, dtype=torch.float32, device=loader.group.device)
        angles = positions[:, None] * frequencies
        self._cos = angles.cos().to(loader.dtype)
        self._sin = angles.sin().to(loader.dtype)

    def at(self, positions_T: Tensor) -> Rotation:
        """The rotation of each token of a step."""
        cos = self._cos[positions_T].unsqueeze(1)
        sin = self._sin[positions_T].unsqueeze(1)
        return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


def _default(spec: RopeSpec, loader: LayerLoader) -> Tensor:
    exponents = torch.arange(0, spec.dim, 2, dtype=torch.float32, device=loader.group.device) / spec.dim
    return 1.0 / (spec.theta**exponents)


def _llama3(spec: RopeSpec, loader: LayerLoader) -> Tensor:
    scaling = spec.llama3
    assert scaling is not None
    frequencies = _default(spec, loader)
    wavelengths = 2 * math.pi / frequencies
    original = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    scaled = torch.where(wavelengths > original / low, frequencies / scaling.factor, blended)
    return torch.where(wavelengths < original / high, frequencies, scaled)


def _factors(spec: RopeSpec, loader: LayerLoader) -> Tensor:
    return _default(spec, loader) / loader.vector("rope.factors", spec.dim // 2, torch.float32)


FREQUENCIES: dict[str, Callable[[RopeSpec, LayerLoader], Tensor]] = {
    "default": _default,
    "llama3": _llama3,
    "factors": _factors,
}
"""Kind of rotary embedding -> its frequencies [dim / 2], float32."""
