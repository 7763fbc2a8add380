"""Qwen 1.5 and 2 MoE: Qwen 2's shape, its feed-forward layers made of experts and one that every token passes."""

from __future__ import annotations

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names, gguf_expert_names, gguf_experts
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import QUERY_KEY_VALUE, hf_decoder, hf_experts
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import biases, hf_decoder_names, named

MLP = "forebay_worker.layers.moe:SharedExpertMlp"
ROUTING = {
    False: "forebay_worker.layers.moe:top_k_of_softmax",
    True: "forebay_worker.layers.moe:renormalized_top_k_of_softmax",
}
"""By `norm_topk_prob`."""

EXPERTS = {
    "experts.router": "model.layers.{layer}.mlp.gate.weight",
    "experts.gate": "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
    "experts.up": "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",
    "experts.down": "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",
}
SHARED_EXPERT = {
    "shared_expert.gate": "model.layers.{layer}.mlp.shared_expert.gate_proj.weight",
    "shared_expert.up": "model.layers.{layer}.mlp.shared_expert.up_proj.weight",
    "shared_expert.down": "model.layers.{layer}.mlp.shared_expert.down_proj.weight",
    "shared_expert.router": "model.layers.{layer}.mlp.shared_expert_gate.weight",
}
GGUF_SHARED_EXPERT = {
    "shared_expert.gate": "blk.{layer}.ffn_gate_shexp.weight",
    "shared_expert.up": "blk.{layer}.ffn_up_shexp.weight",
    "shared_expert.down": "blk.{layer}.ffn_down_shexp.weight",
    "shared_expert.router": "blk.{layer}.ffn_gate_inp_shexp.weight",
}


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    config.require("use_sliding_window", False)
    names = hf_decoder_names() | named(EXPERTS) | named(SHARED_EXPERT)
    if config.flag("qkv_bias", True):
        names |= biases(names, *QUERY_KEY_VALUE)
    shared_width = config.integer("shared_expert_intermediate_size")
    routing = ROUTING[config.flag("norm_topk_prob", False)]
    return hf_decoder(
        config,
        names,
        dense_layers=dense_layers(config),
        mlp=MLP,
        experts=hf_experts(config, "num_experts", "moe_intermediate_size", routing, shared_width),
        max_position_embeddings=config.integer("max_position_embeddings", 32768),
    )


def dense_layers(config: HfConfig) -> list[int]:
    """Layers without experts: those that are named, and all but every so manyth."""
    named_ones, step = config.integers("mlp_only_layers"), config.integer("decoder_sparse_step", 1)
    return [n for n in range(config.integer("num_hidden_layers")) if n in named_ones or (n + 1) % step]


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `qwen2moe`. Raises: ModelRefusedError for what is not built."""
    names = gguf_decoder_names(config, *QUERY_KEY_VALUE) | gguf_expert_names(config) | named(GGUF_SHARED_EXPERT)
    shared_width = config.integer("expert_shared_feed_forward_length")
    experts = gguf_experts(config, "expert_feed_forward_length", ROUTING[False], shared_width)
    return gguf_decoder(config, "Qwen2MoeForCausalLM", names, mlp=MLP, experts=experts)
