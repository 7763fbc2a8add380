"""What a decoder is made of: sizes, and components by name. No torch, so that a model can be judged in milliseconds."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from forebay_worker.weights.names import WeightName


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of low rotary frequencies. Fields as in `rope_scaling` of config.json."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class RopeSpec:
    """Rotary embedding: `kind` names a row of the table in `layers/rotary.py`."""

    theta: float
    dim: int
    kind: str = "default"
    """default, llama3 (needs `llama3`) or factors (frequencies divided by the checkpoint's tensor `rope.factors`)."""
    llama3: Llama3Scaling | None = None


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """A decoder-only model. Components are `module:name`, resolved once, when the decoder is built."""

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    norm_eps: float
    rope: RopeSpec
    tied_head: bool
    """The output head is the embedding's matrix."""
    names: Mapping[str, WeightName] = dataclasses.field(repr=False)
    ignored_suffixes: tuple[str, ...] = (".rotary_emb.inv_freq",)
    """Ends of names of tensors that old checkpoints carry and that are derived from the configuration."""
    block: str = "forebay_worker.models.blocks:PreNormBlock"
    attention: str = "forebay_worker.layers.attention:GroupedQueryAttention"
    mlp: str = "forebay_worker.layers.mlp:SwiGluMlp"
    norm: str = "forebay_worker.layers.norm:RmsNorm"


def resolve(component: str) -> Any:  # noqa: ANN401 (a class chosen by name)
    """The class that `module:name` names."""
    module, _, name = component.partition(":")
    return getattr(importlib.import_module(module), name)
