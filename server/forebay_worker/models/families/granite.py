"""Granite 3: Llama's shape with factors of its own for embeddings, scores, what a layer adds, and logits."""

from __future__ import annotations

from typing import Any

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import hf_decoder, hf_names
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import with_adjacent_rotary

COMPONENTS: dict[str, Any] = {
    "embedding": "forebay_worker.layers.embedding:ScaledTokenEmbedding",
    "block": "forebay_worker.models.blocks:ScaledPreNormBlock",
    "head": "forebay_worker.layers.embedding:ScaledHead",
}


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    return hf_decoder(
        config,
        hf_names(config),
        **COMPONENTS,
        embedding_scale=config.number("embedding_multiplier", 1.0),
        attention_scale=config.number("attention_multiplier", 1.0),
        residual_scale=config.number("residual_multiplier", 1.0),
        logits_scale=1 / config.number("logits_scaling", 1.0),
    )


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `granite`. Raises: ModelRefusedError for what is not built."""
    # llama.cpp's way of saying that there are no positions.
    config.require("rope.scaling.finetuned", True)
    return gguf_decoder(
        config,
        "GraniteForCausalLM",
        with_adjacent_rotary(gguf_decoder_names(config), config.head_dim),
        **COMPONENTS,
        embedding_scale=config.number("embedding_scale", 1.0),
        attention_scale=config.number("attention.scale", config.head_dim**-0.5),
        residual_scale=config.number("residual_scale", 1.0),
        logits_scale=1 / config.number("logit_scale", 1.0),
    )
