"""Qwen 2 and 2.5: Llama's shape with biases of queries, keys and values."""

from __future__ import annotations

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import FULL, SLIDING, HfConfig
from forebay_worker.models.hf_decoder import QUERY_KEY_VALUE, hf_decoder
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import biases, hf_decoder_names


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    names = hf_decoder_names()
    max_positions = config.integer("max_position_embeddings", 32768)
    return hf_decoder(
        config, names | biases(names, *QUERY_KEY_VALUE), windows(config), max_position_embeddings=max_positions
    )


def windows(config: HfConfig) -> list[int]:
    """Each layer's window: of those from `max_window_layers` on, if `use_sliding_window` says so."""
    num_layers = config.integer("num_hidden_layers")
    if not config.flag("use_sliding_window", False):
        return [0] * num_layers
    num_full = config.integer("max_window_layers", 28, minimum=0)
    return config.windows([FULL if layer < num_full else SLIDING for layer in range(num_layers)])


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `qwen2`. Raises: ModelRefusedError for what is not built."""
    return gguf_decoder(config, "Qwen2ForCausalLM", gguf_decoder_names(config, *QUERY_KEY_VALUE))
