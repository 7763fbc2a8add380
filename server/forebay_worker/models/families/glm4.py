"""GLM-4 (0414): norms before and after each part, adjacent pairs of half a head rotated, merged gate and up."""

from __future__ import annotations

from typing import Any

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import GGUF_OUTPUT_NORMS, gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import QUERY_KEY_VALUE, hf_decoder
from forebay_worker.models.spec import DecoderSpec, LayerSpec
from forebay_worker.weights.names import biases, hf_decoder_names, merged, named, with_adjacent_rotary

COMPONENTS: dict[str, Any] = {"block": "forebay_worker.models.blocks:SandwichNormBlock"}
GATE_UP = ("mlp.gate", "mlp.up")


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    layer = "model.layers.{layer}."
    names = hf_decoder_names() | named(
        {
            "attention.output_norm": layer + "post_self_attn_layernorm.weight",
            "mlp.output_norm": layer + "post_mlp_layernorm.weight",
        }
    )
    names |= merged(layer + "mlp.gate_up_proj.weight", dict.fromkeys(GATE_UP, config.integer("intermediate_size")))
    if config.flag("attention_bias", True):
        names |= biases(names, *QUERY_KEY_VALUE)
    head_dim = config.integer("head_dim", 128)
    rope = config.partial_rope(head_dim, default_part=0.5)
    return hf_decoder(
        config,
        with_adjacent_rotary(names, head_dim, rope.dim),
        **COMPONENTS,
        layers=(LayerSpec(rope),) * config.integer("num_hidden_layers"),
        head_dim=head_dim,
        max_position_embeddings=config.integer("max_position_embeddings", 131072),
        num_kv_heads=config.integer("num_key_value_heads", 2),
        norm_eps=config.number("rms_norm_eps", 1.5625e-7),
    )


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `glm4`. Raises: ModelRefusedError for what is not built."""
    names = gguf_decoder_names(config, *QUERY_KEY_VALUE) | named(GGUF_OUTPUT_NORMS)
    width = config.integer("feed_forward_length")
    names |= merged("blk.{layer}.ffn_up.weight", dict.fromkeys(GATE_UP, width))
    names = with_adjacent_rotary(names, config.head_dim, config.rope().dim)
    return gguf_decoder(config, "Glm4ForCausalLM", names, **COMPONENTS)
