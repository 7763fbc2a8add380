"""Command-R: attention and SwiGLU side by side behind one norm without bias, adjacent pairs rotated, scaled logits."""

from __future__ import annotations

from typing import Any

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import hf_decoder, hf_names
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import WeightName, with_adjacent_rotary, without

COMPONENTS: dict[str, Any] = {
    "block": "forebay_worker.models.blocks:ParallelBlock",
    "norm": "forebay_worker.layers.norm:LayerNorm",
    "head": "forebay_worker.layers.embedding:ScaledHead",
}


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    return hf_decoder(config, cohere_names(config), **cohere_fields(config))


def cohere_names(config: HfConfig) -> dict[str, WeightName]:
    """Names of the tensors; one norm feeds both halves of a layer."""
    head_dim = config.integer("hidden_size") // config.integer("num_attention_heads")
    return with_adjacent_rotary(without(hf_names(config), "mlp.norm"), head_dim)


def cohere_fields(config: HfConfig) -> dict[str, Any]:
    """DecoderSpec's fields that Command-R and its followers share."""
    config.require("hidden_act", "silu")
    config.require("use_qk_norm", False)
    return {
        **COMPONENTS,
        "logits_scale": config.number("logit_scale", 0.0625),
        "norm_eps": config.number("layer_norm_eps", 1e-5),
        "max_position_embeddings": config.integer("max_position_embeddings", 8192),
        "tied_head": config.flag("tie_word_embeddings", True),
    }


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `command-r`. Raises: ModelRefusedError for what is not built."""
    return gguf_decoder(config, "CohereForCausalLM", gguf_names(config), **gguf_fields(config))


def gguf_names(config: GgufConfig) -> dict[str, WeightName]:
    """Names of the tensors, whose heads lie as in config.json's models."""
    return with_adjacent_rotary(without(gguf_decoder_names(config), "mlp.norm"), config.head_dim)


def gguf_fields(config: GgufConfig) -> dict[str, Any]:
    """DecoderSpec's fields that files of Command-R and its followers share."""
    return {
        **COMPONENTS,
        "logits_scale": config.number("logit_scale"),
        "norm_eps": config.number("attention.layer_norm_epsilon"),
    }
