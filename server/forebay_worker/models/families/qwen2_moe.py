"""Qwen 1.5 and 2 MoE: Qwen 2's shape, its feed-forward layers made of experts and one that every token passes."""

from __future__ import annotations

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names, gguf_expert_names, gguf_experts
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import QUERY_KEY_VALUE, hf_decoder, hf_experts
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import WeightName, biases, hf_decoder_names, named, without_mlp

MLP = "forebay_worker.layers.moe:SharedExpertMlp"
ROUTING = {
    False: "forebay_worker.layers.moe:top_k_of_softmax",
    True: "forebay_worker.layers.moe:renormalized_top_k_of_softmax",
}
"""By `norm_topk_prob`."""


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    refuse_dense_layers(config)
    config.require("use_sliding_window", False)
    mlp = "model.layers.{layer}.mlp."
    names = without_mlp(hf_decoder_names()) | expert_names()
    names |= named(
        {
            "shared_expert.gate": mlp + "shared_expert.gate_proj.weight",
            "shared_expert.up": mlp + "shared_expert.up_proj.weight",
            "shared_expert.down": mlp + "shared_expert.down_proj.weight",
            "shared_expert.router": mlp + "shared_expert_gate.weight",
        }
    )
    if config.flag("qkv_bias", True):
        names |= biases(names, *QUERY_KEY_VALUE)
    shared_width = config.integer("shared_expert_intermediate_size")
    routing = ROUTING[config.flag("norm_topk_prob", False)]
    return hf_decoder(
        config,
        names,
        mlp=MLP,
        experts=hf_experts(config, "num_experts", "moe_intermediate_size", routing, shared_width),
        max_position_embeddings=config.integer("max_position_embeddings", 32768),
    )


def refuse_dense_layers(config: HfConfig) -> None:
    """Refuse models of which only some layers have experts."""
    config.require("hidden_act", "silu")
    config.require("decoder_sparse_step", 1)
    config.require("mlp_only_layers", [])


def expert_names() -> dict[str, WeightName]:
    """Names of the router and of the experts."""
    mlp = "model.layers.{layer}.mlp."
    return named(
        {
            "experts.router": mlp + "gate.weight",
            "experts.gate": mlp + "experts.{expert}.gate_proj.weight",
            "experts.up": mlp + "experts.{expert}.up_proj.weight",
            "experts.down": mlp + "experts.{expert}.down_proj.weight",
        }
    )


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `qwen2moe`. Raises: ModelRefusedError for what is not built."""
    layer = "blk.{layer}."
    names = without_mlp(gguf_decoder_names(config, *QUERY_KEY_VALUE)) | gguf_expert_names(config)
    names |= named(
        {
            "shared_expert.gate": layer + "ffn_gate_shexp.weight",
            "shared_expert.up": layer + "ffn_up_shexp.weight",
            "shared_expert.down": layer + "ffn_down_shexp.weight",
            "shared_expert.router": layer + "ffn_gate_inp_shexp.weight",
        }
    )
    shared_width = config.integer("expert_shared_feed_forward_length")
    experts = gguf_experts(config, "expert_feed_forward_length", ROUTING[False], shared_width)
    return gguf_decoder(config, "Qwen2MoeForCausalLM", names, mlp=MLP, experts=experts)
