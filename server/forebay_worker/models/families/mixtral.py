"""Mixtral: Mistral's shape, its feed-forward layers made of experts, the chosen ones' weights adding up to one."""

from __future__ import annotations

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import (
    gguf_decoder,
    gguf_decoder_names,
    gguf_expert_names,
    gguf_experts,
)
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import hf_decoder, hf_experts
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import hf_decoder_names, named, with_adjacent_rotary

MLP = "forebay_worker.layers.moe:ExpertsMlp"
ROUTING = "forebay_worker.layers.moe:renormalized_top_k_of_softmax"


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    block = "model.layers.{layer}.block_sparse_moe."
    names = hf_decoder_names() | named(
        {
            "experts.router": block + "gate.weight",
            "experts.gate": block + "experts.{expert}.w1.weight",
            "experts.up": block + "experts.{expert}.w3.weight",
            "experts.down": block + "experts.{expert}.w2.weight",
        }
    )
    return hf_decoder(
        config,
        names,
        [config.window()] * config.integer("num_hidden_layers"),
        default_theta=1e6,
        mlp=MLP,
        experts=hf_experts(config, "num_local_experts", "intermediate_size", ROUTING),
        max_position_embeddings=config.integer("max_position_embeddings", 4096 * 32),
        norm_eps=config.number("rms_norm_eps", 1e-5),
    )


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `llama` with experts. Raises: ModelRefusedError for what is not built."""
    names = with_adjacent_rotary(gguf_decoder_names(config), config.head_dim) | gguf_expert_names(config)
    experts = gguf_experts(config, "feed_forward_length", ROUTING)
    return gguf_decoder(config, "MixtralForCausalLM", names, mlp=MLP, experts=experts)
