"""Rotary position embedding over halves, as transformers lays out heads.

P = positions, R = rotated width.
Source: arXiv 2104.09864; the ways of scaling: see the classes in `models/spec.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from forebay_worker.attention.rotation import Rotation
from forebay_worker.models.spec import (
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeSpec,
    YarnScaling,
)

STRETCH = 1024
"""Positions that are computed at a time: 1 MiB for the widest heads, and no pause that a stream would show."""


class RotaryEmbedding:
    """Cosines and sines in float32, of as many positions as the longest context so far has had.

    Most servers never see the length that a model allows: all 131,072 positions of heads of 256 take 134 MB. The whole
    table is reserved; on CPU what is not computed yet has no memory behind it.
    """

    def __init__(self, spec: RopeSpec, max_sequence_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        """Reserve the table; half of each, for the halves are equal. `dtype`: of queries and keys."""
        self._frequencies, self._attention_factor = rotary_frequencies(spec, max_sequence_tokens)
        self._table_PR = torch.empty(max_sequence_tokens, spec.dim, device=device)
        self._num_computed = 0
        self._dtype = dtype

    def at(self, positions_T: Tensor, max_context_len: int) -> Rotation:
        """The rotation of each token of a step, whose positions lie below `max_context_len`."""
        while self._num_computed < max_context_len:
            self._compute_stretch()
        return Rotation(self._table_PR, positions_T, self._dtype)

    def _compute_stretch(self) -> None:
        start = self._num_computed
        stop = min(start + STRETCH, len(self._table_PR))
        assert stop > start, f"a context is longer than the {stop} tokens that were announced"
        positions = torch.arange(start, stop, dtype=torch.float32)
        angles = positions[:, None] * self._frequencies
        new_PR = torch.cat((angles.cos(), angles.sin()), dim=-1).mul_(self._attention_factor)
        self._table_PR[start:stop].copy_(new_PR)
        self._num_computed = stop


def rotary_frequencies(spec: RopeSpec, max_sequence_tokens: int) -> tuple[Tensor, float]:
    """(float32 [R / 2], factor of cosines and sines), for a server of sequences up to `max_sequence_tokens`."""
    plain = 1.0 / _wavelengths(spec)
    match spec.scaling:
        case None:
            return plain, 1.0
        case LinearScaling(factor):
            return plain / factor, 1.0
        case Llama3Scaling():
            return _llama3(plain, spec.scaling), 1.0
        case YarnScaling():
            return _yarn(spec, spec.scaling), spec.scaling.attention_factor
        case LongRopeScaling():
            return _longrope(spec, spec.scaling, max_sequence_tokens), spec.scaling.attention_factor
        case FactorScaling(factors):
            return plain / torch.tensor(factors), 1.0


def _wavelengths(spec: RopeSpec) -> Tensor:
    """In tokens, divided by 2 pi."""
    return spec.theta ** (torch.arange(0, spec.dim, 2, dtype=torch.float32) / spec.dim)


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    wavelengths = 2 * math.pi / plain
    original = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * plain / scaling.factor + smooth * plain
    scaled = torch.where(wavelengths > original / low, plain / scaling.factor, blended)
    return torch.where(wavelengths < original / high, plain, scaled)


def _yarn(spec: RopeSpec, scaling: YarnScaling) -> Tensor:
    def dimension(num_turns: float) -> float:
        """The dimension that turns so often within the original length."""
        turns = scaling.original_max_position_embeddings / (num_turns * 2 * math.pi)
        return spec.dim * math.log(turns) / (2 * math.log(spec.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.dim - 1)
    width = high - low if high != low else 0.001
    ramp = ((torch.arange(spec.dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    wavelengths = _wavelengths(spec)
    kept = 1 - ramp
    return 1.0 / (scaling.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept


def _longrope(spec: RopeSpec, scaling: LongRopeScaling, max_sequence_tokens: int) -> Tensor:
    is_long = max_sequence_tokens > scaling.original_max_position_embeddings
    factors = scaling.long_factors if is_long else scaling.short_factors
    return 1.0 / (torch.tensor(factors) * _wavelengths(spec))
