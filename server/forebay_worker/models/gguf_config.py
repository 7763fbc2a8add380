"""Reads a GGUF file's metadata with types, and refuses by name and value what is not built."""

from __future__ import annotations

import numpy as np

from forebay_worker.models.rope_config import longrope_attention_factor, yarn_attention_factor
from forebay_worker.models.spec import (
    FactorScaling,
    LinearScaling,
    LongRopeScaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
)
from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.gguf import GgufFile

FACTORS, LONG_FACTORS, SHORT_FACTORS = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"

HARMLESS = frozenset(
    (
        "vocab_size",
        "tensor_data_layout",
        "attention.causal",
        "expert_used_count",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
    )
)
"""Keys that may stay unread: they say nothing new, or mean something only beside a key that is read."""


class GgufConfig:
    """The metadata below a file's architecture; remembers what was asked for, so that no key goes unnoticed."""

    def __init__(self, file: GgufFile) -> None:
        """Raises: ModelRefusedError if the file names no architecture."""
        self.file = file
        self.architecture = file.text("general.architecture")
        self.tensors = frozenset(file.names())
        self._read: set[str] = set()

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer. Raises: ModelRefusedError naming the key and its value."""
        self._read.add(key)
        return self.file.integer(f"{self.architecture}.{key}", default)

    def number(self, key: str, default: float | None = None) -> float:
        """A number. Raises: ModelRefusedError naming the key and its value."""
        self._read.add(key)
        return self.file.number(f"{self.architecture}.{key}", default)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean. Raises: ModelRefusedError naming the key and its value."""
        self._read.add(key)
        value = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, bool):
            raise ModelRefusedError(
                f"`{self.architecture}.{key}` of `{self.file.path}` is `{value}`, expected true or false"
            )
        return value

    def require(self, key: str, supported: int) -> None:
        """Refuse a value other than `supported`; absent passes."""
        self._read.add(key)
        value = self.file.metadata.get(f"{self.architecture}.{key}", supported)
        if value != supported:
            raise ModelRefusedError(
                f"`{self.architecture}.{key}` of `{self.file.path}` is `{value}`, which is not supported; "
                f"supported: `{supported}`"
            )

    def refuse_unread(self) -> None:
        """Refuse a key of the architecture that nothing has asked for: honoured, it would change the output."""
        prefix = self.architecture + "."
        for key, value in self.file.metadata.items():
            own = key.removeprefix(prefix)
            if key.startswith(prefix) and own not in self._read | HARMLESS:
                raise ModelRefusedError(f"`{key}` of `{self.file.path}` is `{value}`, which is not supported")

    @property
    def num_layers(self) -> int:
        """Decoder blocks."""
        return self.integer("block_count")

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return self.integer("attention.head_count")

    @property
    def num_kv_heads(self) -> int:
        """Key-value heads."""
        return self.integer("attention.head_count_kv", self.num_heads)

    @property
    def head_dim(self) -> int:
        """Width of a head. Raises: ModelRefusedError if values have another than keys."""
        width = self.integer("attention.key_length", self.integer("embedding_length") // self.num_heads)
        self.require("attention.value_length", width)
        return width

    def rope(self, default_theta: float = 10000.0) -> RopeSpec:
        """Rotary parameters. Raises: ModelRefusedError for a kind that is not built."""
        dim = self.integer("rope.dimension_count", self.head_dim)
        return RopeSpec(self.number("rope.freq_base", default_theta), dim, self._scaling())

    def _scaling(self) -> RopeScaling | None:
        self._read.add("rope.scaling.type")
        # llama.cpp's rule: a factor without a type is linear.
        usual = "linear" if f"{self.architecture}.rope.scaling.factor" in self.file.metadata else "none"
        kind = self.file.text(f"{self.architecture}.rope.scaling.type", usual)
        if LONG_FACTORS in self.tensors and SHORT_FACTORS in self.tensors:
            return self._longrope()
        if kind == "none":
            return FactorScaling(self._vector(FACTORS)) if FACTORS in self.tensors else None
        factor = self.number("rope.scaling.factor")
        if kind == "linear":
            return LinearScaling(factor)
        if kind == "yarn":
            return YarnScaling(
                factor=factor,
                attention_factor=yarn_attention_factor(factor) * self.number("rope.scaling.attn_factor", 1.0),
                beta_fast=self.number("rope.scaling.yarn_beta_fast", 32.0),
                beta_slow=self.number("rope.scaling.yarn_beta_slow", 1.0),
                original_max_position_embeddings=self.integer("rope.scaling.original_context_length"),
            )
        raise ModelRefusedError(
            f"`{self.architecture}.rope.scaling.type` of `{self.file.path}` is `{kind}`, which is not supported; "
            "supported: `none`, `linear`, `yarn`"
        )

    def _longrope(self) -> LongRopeScaling:
        original = self.integer("rope.scaling.original_context_length")
        usual = longrope_attention_factor(self.integer("context_length") / original, original)
        return LongRopeScaling(
            short_factors=self._vector(SHORT_FACTORS),
            long_factors=self._vector(LONG_FACTORS),
            attention_factor=self.number("rope.scaling.attn_factor", usual),
            original_max_position_embeddings=original,
        )

    def _vector(self, name: str) -> tuple[float, ...]:
        stored = self.file.read(name)
        if stored.storage.name != "F32":
            raise ModelRefusedError(
                f"tensor `{name}` of `{self.file.path}` has type `{stored.storage.name}`, expected F32"
            )
        return tuple(stored.data.view(np.float32).reshape(-1).tolist())
