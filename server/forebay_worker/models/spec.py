"""What a decoder is made of: sizes, and components by name. No torch, so that a model can be judged in milliseconds."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from forebay_worker.weights.names import WeightName


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """All rotary frequencies divided by one factor."""

    factor: float


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of low rotary frequencies. Fields as in `rope_scaling` of config.json."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """A ramp between stretched and plain frequencies. Source: arXiv 2309.00071."""

    factor: float
    attention_factor: float
    """Multiplied with cosines and sines."""
    beta_fast: float
    beta_slow: float
    original_max_position_embeddings: int
    truncate: bool = True
    """The ramp starts and ends at whole dimensions."""


@dataclasses.dataclass(frozen=True)
class LongRopeScaling:
    """A factor for each frequency, of two sets. Source: arXiv 2402.13753.

    The long set is for a server whose sequences may become longer than the model was trained with; it then holds for
    all of them. So a key's rotation never depends on how long its sequence or a neighbour's is, and a cached prefix
    is right for whoever shares it. transformers decides by the length of the longest sequence in the batch.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    attention_factor: float
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class FactorScaling:
    """A divisor for each frequency, as GGUF files carry them in `rope_freqs.weight`."""

    factors: tuple[float, ...]


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling | FactorScaling


@dataclasses.dataclass(frozen=True)
class RopeSpec:
    """Rotary embedding of the first `dim` elements of a head; the scaling's type chooses how in `layers/rotary.py`."""

    theta: float
    dim: int
    scaling: RopeScaling | None = None


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """What differs between the layers of one model."""

    rope: RopeSpec | None
    """None: positions are learned embeddings, or the layer takes no notice of them."""
    window: int = 0
    """Tokens that a query sees, its own included; 0: all."""
    mlp: str | None = None
    """The feed-forward component where it is not the model's: a dense layer between layers of experts."""


@dataclasses.dataclass(frozen=True)
class ExpertsSpec:
    """Feed-forward layers of which a router chooses some for each token."""

    num_experts: int
    num_experts_per_token: int
    intermediate_size: int
    routing: str
    """How router logits become weights: `module:name`."""
    shared_intermediate_size: int = 0
    """Of the expert that every token passes; 0: there is none."""


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """A decoder-only model. Components are `module:name`, resolved once, when the decoder is built."""

    architecture: str
    layers: tuple[LayerSpec, ...]
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    norm_eps: float
    tied_head: bool
    """The output head is the embedding's matrix."""
    names: Mapping[str, WeightName] = dataclasses.field(repr=False)
    """Role -> where its tensor lies. A linear layer has a bias if the role `<its role>.bias` is here."""
    ignored_names: tuple[str, ...] = (".rotary_emb.inv_freq",)
    """Ends of names of tensors that no layer reads: derived from the configuration, or in this description already."""
    ignored_prefixes: tuple[str, ...] = ()
    """Starts of names of tensors of what is not served: a multimodal model's other towers."""
    attention_scale: float | None = None
    """Multiplied with the scores; None: head_dim ** -0.5."""
    embedding_scale: float = 1.0
    """Of embeddings, for a component that scales them."""
    residual_scale: float = 1.0
    """Of what each half of a block adds, for a block that scales it."""
    logits_scale: float = 1.0
    """Of logits, for a head that scales them."""
    attention_softcap: float = 0.0
    """Bound of attention scores; 0: none."""
    final_softcap: float = 0.0
    """Bound of logits, for a head that has one."""
    experts: ExpertsSpec | None = None
    embedding: str = "forebay_worker.layers.embedding:TokenEmbedding"
    head: str = "forebay_worker.layers.embedding:VocabParallelHead"
    block: str = "forebay_worker.models.blocks:PreNormBlock"
    attention: str = "forebay_worker.layers.attention:GroupedQueryAttention"
    mlp: str = "forebay_worker.layers.mlp:SwiGluMlp"
    norm: str = "forebay_worker.layers.norm:RmsNorm"

    @property
    def num_layers(self) -> int:
        """Decoder blocks."""
        return len(self.layers)


def resolve(component: str) -> Any:  # noqa: ANN401 (a class or function chosen by name)
    """What `module:name` names."""
    module, _, name = component.partition(":")
    return getattr(importlib.import_module(module), name)
