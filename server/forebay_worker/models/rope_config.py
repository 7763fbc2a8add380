"""Rotary parameters of config.json -> RopeSpec. Kinds, defaults and formulas are those of transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forebay_worker.models.spec import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
)
from forebay_worker.weights.errors import ModelRefusedError

KINDS = ("default", "dynamic", "linear", "llama3", "longrope", "yarn")


class RopeParameters:
    """One object of rotary parameters: `rope_parameters`, or the older `rope_scaling`."""

    def __init__(self, fields: object, path: Path, max_position_embeddings: int) -> None:
        """Raises: ModelRefusedError if it is no object."""
        if not isinstance(fields, Mapping):
            raise ModelRefusedError(f"rotary parameters of `{path}` are `{fields}`, expected an object")
        self._fields: Mapping[str, Any] = fields
        self._path = path
        self._max_position_embeddings = max_position_embeddings

    @property
    def kind(self) -> str:
        """One of KINDS. Raises: ModelRefusedError for another."""
        kind = self._fields.get("rope_type", self._fields.get("type", "default"))
        kind = "longrope" if kind == "su" else kind
        if kind not in KINDS:
            raise ModelRefusedError(
                f"`rope_type` of `{self._path}` is `{kind}`, which is not supported; supported: "
                + ", ".join(f"`{known}`" for known in KINDS)
            )
        return str(kind)

    def spec(self, dim: int, theta: float) -> RopeSpec:
        """`theta`: when the object has none. Raises: ModelRefusedError for a field that is missing or wrong."""
        return RopeSpec(self._number("rope_theta", theta), dim, self._scaling(dim))

    def _scaling(self, dim: int) -> RopeScaling | None:
        match self.kind:
            case "linear":
                return LinearScaling(self._number("factor"))
            case "llama3":
                return self._llama3()
            case "yarn":
                return self._yarn()
            case "longrope":
                return self._longrope(dim)
            case _:
                # Dynamic scaling begins beyond max_position_embeddings, where no sequence is served.
                return None

    def _llama3(self) -> Llama3Scaling:
        return Llama3Scaling(
            factor=self._number("factor"),
            low_freq_factor=self._number("low_freq_factor"),
            high_freq_factor=self._number("high_freq_factor"),
            original_max_position_embeddings=self._original_length(),
        )

    def _yarn(self) -> YarnScaling:
        original = self._original_length()
        factor = self._number("factor", self._max_position_embeddings / original)
        mscale, mscale_all_dim = self._number("mscale", 0.0), self._number("mscale_all_dim", 0.0)
        usual = yarn_attention_factor(factor)
        if mscale and mscale_all_dim:
            usual = yarn_attention_factor(factor, mscale) / yarn_attention_factor(factor, mscale_all_dim)
        truncate = self._fields.get("truncate", True)
        if not isinstance(truncate, bool):
            raise ModelRefusedError(f"`truncate` of `{self._path}` is `{truncate}`, expected true or false")
        return YarnScaling(
            factor=factor,
            attention_factor=self._number("attention_factor", usual),
            beta_fast=self._number("beta_fast", 32.0),
            beta_slow=self._number("beta_slow", 1.0),
            original_max_position_embeddings=original,
            truncate=truncate,
        )

    def _longrope(self, dim: int) -> LongRopeScaling:
        original = self._original_length()
        factor = self._number("factor", self._max_position_embeddings / original)
        return LongRopeScaling(
            short_factors=self._factors("short_factor", dim // 2),
            long_factors=self._factors("long_factor", dim // 2),
            attention_factor=self._number("attention_factor", longrope_attention_factor(factor, original)),
            original_max_position_embeddings=original,
        )

    def _factors(self, key: str, length: int) -> tuple[float, ...]:
        value = self._fields.get(key)
        if not isinstance(value, list) or len(value) != length or not all(_is_number(one) for one in value):
            raise ModelRefusedError(f"`{key}` of `{self._path}` is `{value}`, expected a list of `{length}` numbers")
        return tuple(float(one) for one in value)

    def _original_length(self) -> int:
        value = self._fields.get("original_max_position_embeddings") or self._max_position_embeddings
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelRefusedError(
                f"`original_max_position_embeddings` of `{self._path}` is `{value}`, expected a positive integer"
            )
        return value

    def _number(self, key: str, default: float | None = None) -> float:
        value = self._fields.get(key)
        value = default if value is None else value
        if not _is_number(value):
            raise ModelRefusedError(f"`{key}` of `{self._path}` is `{value}`, expected a number")
        return float(value)  # type: ignore[arg-type]  # a number, as just checked


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """What stretching by `factor` asks of cosines and sines. Source: arXiv 2309.00071, eq. 22."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def longrope_attention_factor(factor: float, original_max_position_embeddings: int) -> float:
    """What stretching by `factor` asks of cosines and sines. Source: Phi-3's configuration, arXiv 2402.13753."""
    return math.sqrt(1 + math.log(factor) / math.log(original_max_position_embeddings)) if factor > 1 else 1.0
