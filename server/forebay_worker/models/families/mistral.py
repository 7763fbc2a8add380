"""Mistral: Llama's shape with one sliding window in all layers."""

from __future__ import annotations

from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import hf_decoder
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import hf_decoder_names

DEFAULT_WINDOW = 4096
"""transformers' `MistralConfig` when the field is absent; null switches it off."""


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    config.require("layer_types")
    window = config.window(DEFAULT_WINDOW)
    return hf_decoder(
        config,
        hf_decoder_names(),
        [window] * config.integer("num_hidden_layers"),
        max_position_embeddings=config.integer("max_position_embeddings", 4096 * 32),
        num_kv_heads=config.integer("num_key_value_heads", 8),
    )
