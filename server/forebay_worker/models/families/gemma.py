"""Gemma 1: Llama's shape with scaled embeddings, GeGLU, and norms whose weights are stored as differences from 1."""

from __future__ import annotations

from typing import Any

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import hf_decoder, hf_names
from forebay_worker.models.spec import DecoderSpec

COMPONENTS: dict[str, Any] = {
    "embedding": "forebay_worker.layers.embedding:ScaledTokenEmbedding",
    "mlp": "forebay_worker.layers.mlp:GeGluMlp",
}
UNIT_OFFSET_NORM = "forebay_worker.layers.norm:UnitOffsetRmsNorm"
"""Of safetensors; GGUF files hold the sum with 1."""


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    # Files of the first release say "gelu" and mean the approximation.
    config.require("hidden_act", "gelu_pytorch_tanh", "gelu")
    return hf_decoder(config, hf_names(config), **gemma_fields(config, num_kv_heads=16))


def gemma_fields(config: HfConfig, num_kv_heads: int) -> dict[str, Any]:
    """DecoderSpec's fields that Gemma 1 to 3 share; `num_kv_heads`: for a configuration that does not say."""
    config.require("hidden_activation", "gelu_pytorch_tanh")
    config.require("use_bidirectional_attention", False)
    return {
        **COMPONENTS,
        "norm": UNIT_OFFSET_NORM,
        "embedding_scale": config.integer("hidden_size") ** 0.5,
        "head_dim": config.integer("head_dim", 256),
        "num_kv_heads": config.integer("num_key_value_heads", num_kv_heads),
        "tied_head": config.flag("tie_word_embeddings", True),
        "max_position_embeddings": config.integer("max_position_embeddings", 8192),
    }


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `gemma`. Raises: ModelRefusedError for what is not built."""
    return gguf_decoder(config, "GemmaForCausalLM", gguf_decoder_names(config), **gguf_fields(config))


def gguf_fields(config: GgufConfig) -> dict[str, Any]:
    """DecoderSpec's fields that files of Gemma 1 to 3 share."""
    return {**COMPONENTS, "embedding_scale": config.integer("embedding_length") ** 0.5}
