"""Qwen 3: Llama's shape with norms of each head of queries and keys."""

from __future__ import annotations

from forebay_worker.models.families import qwen2
from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import GGUF_HEAD_NORMS, gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import hf_decoder, hf_names
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import named

ATTENTION = "forebay_worker.layers.attention:NormedQueryKeyAttention"

HEAD_NORMS = {
    "attention.query_norm": "model.layers.{layer}.self_attn.q_norm.weight",
    "attention.key_norm": "model.layers.{layer}.self_attn.k_norm.weight",
}


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    return hf_decoder(
        config,
        hf_names(config) | named(HEAD_NORMS),
        qwen2.windows(config),
        attention=ATTENTION,
        head_dim=config.integer("head_dim", 128),
        max_position_embeddings=config.integer("max_position_embeddings", 32768),
    )


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `qwen3`. Raises: ModelRefusedError for what is not built."""
    names = gguf_decoder_names(config) | named(GGUF_HEAD_NORMS)
    return gguf_decoder(config, "Qwen3ForCausalLM", names, attention=ATTENTION)
