"""Phi 1, 1.5 and 2: attention and feed-forward side by side behind one LayerNorm, heads partly rotated, biases."""

from __future__ import annotations

from typing import Any

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import QUERY_KEY_VALUE, hf_decoder
from forebay_worker.models.spec import DecoderSpec, LayerSpec
from forebay_worker.weights.names import biases, hf_decoder_names, merged, named, without

COMPONENTS: dict[str, Any] = {
    "block": "forebay_worker.models.blocks:ParallelBlock",
    "mlp": "forebay_worker.layers.mlp:GeluMlp",
    "norm": "forebay_worker.layers.norm:LayerNorm",
}
LACKING = ("mlp.gate", "mlp.norm")
BESIDE_QKV = ("attention.norm", "norm", "head", "attention.output", "mlp.up", "mlp.down")
"""Roles that have a bias, beside queries, keys and values."""


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "gelu_new", "gelu_pytorch_tanh")
    config.require("qk_layernorm", False)
    layer = "model.layers.{layer}."
    names = without(hf_decoder_names(), *LACKING) | named(
        {
            "attention.output": layer + "self_attn.dense.weight",
            "mlp.up": layer + "mlp.fc1.weight",
            "mlp.down": layer + "mlp.fc2.weight",
            "norm": "model.final_layernorm.weight",
        }
    )
    head_dim = config.integer("hidden_size") // config.integer("num_attention_heads")
    rope = config.partial_rope(head_dim, default_part=0.5)
    return hf_decoder(
        config,
        names | biases(names, *QUERY_KEY_VALUE, *BESIDE_QKV),
        **COMPONENTS,
        layers=(LayerSpec(rope),) * config.integer("num_hidden_layers"),
        norm_eps=config.number("layer_norm_eps", 1e-5),
    )


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `phi2`. Raises: ModelRefusedError for what is not built."""
    names = without(gguf_decoder_names(config, *QUERY_KEY_VALUE), *LACKING)
    names |= biases(names, *BESIDE_QKV)
    if "blk.0.attn_qkv.weight" in config.tensors:
        width = dict.fromkeys(QUERY_KEY_VALUE, config.integer("embedding_length"))
        names |= merged("blk.{layer}.attn_qkv.weight", width, has_bias=True)
    epsilon = config.number("attention.layer_norm_epsilon")
    return gguf_decoder(config, "PhiForCausalLM", names, **COMPONENTS, norm_eps=epsilon)
