"""Llama 1 to 3.x and what shares their shape (SmolLM): pre-norm blocks, grouped queries, SwiGLU, full rotary."""

from __future__ import annotations

from forebay_worker.models.families import mixtral
from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import QUERY_KEY_VALUE, hf_decoder, hf_names
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import with_adjacent_rotary


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    return hf_decoder(config, hf_names(config))


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `llama`. Raises: ModelRefusedError for what is not built."""
    if config.integer("expert_count", 0):
        return mixtral.from_gguf(config)
    names = with_adjacent_rotary(gguf_decoder_names(config, "attention.output", *QUERY_KEY_VALUE), config.head_dim)
    return gguf_decoder(config, "LlamaForCausalLM", names)
