"""Qwen 3 MoE: Qwen 3's shape, its feed-forward layers made of experts."""

from __future__ import annotations

from forebay_worker.models.families.qwen2_moe import EXPERTS, ROUTING, dense_layers
from forebay_worker.models.families.qwen3 import ATTENTION, HEAD_NORMS
from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import (
    GGUF_HEAD_NORMS,
    gguf_decoder,
    gguf_decoder_names,
    gguf_expert_names,
    gguf_experts,
)
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import hf_decoder, hf_experts, hf_names
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import named

MLP = "forebay_worker.layers.moe:ExpertsMlp"


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    window = config.window(4096) if config.flag("use_sliding_window", False) else 0
    # Older files say `num_experts`, newer ones `num_local_experts`.
    num_experts = "num_local_experts" if "num_local_experts" in config.fields else "num_experts"
    routing = ROUTING[config.flag("norm_topk_prob", False)]
    return hf_decoder(
        config,
        hf_names(config) | named(HEAD_NORMS) | named(EXPERTS),
        [window] * config.integer("num_hidden_layers"),
        dense_layers=dense_layers(config),
        attention=ATTENTION,
        mlp=MLP,
        experts=hf_experts(config, num_experts, "moe_intermediate_size", routing),
        num_kv_heads=config.integer("num_key_value_heads", 4),
        max_position_embeddings=config.integer("max_position_embeddings", 32768),
    )


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `qwen3moe`. Raises: ModelRefusedError for what is not built."""
    names = gguf_decoder_names(config) | named(GGUF_HEAD_NORMS) | gguf_expert_names(config)
    experts = gguf_experts(config, "expert_feed_forward_length", ROUTING[True])
    return gguf_decoder(config, "Qwen3MoeForCausalLM", names, attention=ATTENTION, mlp=MLP, experts=experts)
