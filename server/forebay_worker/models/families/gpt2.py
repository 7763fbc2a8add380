"""GPT-2: learned positions, LayerNorm, biases everywhere, one merged projection stored as inputs by outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import QUERY_KEY_VALUE, hf_decoder
from forebay_worker.models.spec import DecoderSpec, LayerSpec
from forebay_worker.weights.names import WeightName, biases, merged, named, transposed, transposed_rows, without

COMPONENTS: dict[str, Any] = {
    "embedding": "forebay_worker.layers.embedding:PositionedTokenEmbedding",
    "mlp": "forebay_worker.layers.mlp:GeluMlp",
    "norm": "forebay_worker.layers.norm:LayerNorm",
}
NORMS = ("attention.norm", "mlp.norm", "norm")
MATRICES = ("attention.output", "mlp.up", "mlp.down")


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("activation_function", "gelu_new", "gelu_pytorch_tanh")
    config.require("scale_attn_weights", True)
    config.require("scale_attn_by_inverse_layer_idx", False)
    config.require("add_cross_attention", False)
    width, num_heads = config.integer("n_embd"), config.integer("n_head")
    return hf_decoder(
        config.renamed({"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}),
        _names(width),
        layers=(LayerSpec(None),) * config.integer("n_layer"),
        intermediate_size=config.integer("n_inner", 4 * width),
        num_kv_heads=num_heads,
        max_position_embeddings=config.integer("n_positions", 1024),
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        tied_head=config.flag("tie_word_embeddings", True),
        # Causal masks, which old checkpoints carry.
        ignored_names=(".attn.bias", ".attn.masked_bias"),
        **COMPONENTS,
    )


def _names(width: int) -> dict[str, WeightName]:
    layer = "transformer.h.{layer}."
    names = named(
        {
            "embedding": "transformer.wte.weight",
            "positions": "transformer.wpe.weight",
            "attention.norm": layer + "ln_1.weight",
            "attention.output": layer + "attn.c_proj.weight",
            "mlp.norm": layer + "ln_2.weight",
            "mlp.up": layer + "mlp.c_fc.weight",
            "mlp.down": layer + "mlp.c_proj.weight",
            "norm": "transformer.ln_f.weight",
            "head": "lm_head.weight",
        }
    )
    names |= biases(names, *NORMS, *MATRICES)
    names |= {role: dataclasses.replace(names[role], arrange=transposed) for role in MATRICES}
    qkv = dict.fromkeys(QUERY_KEY_VALUE, width)
    return names | merged(layer + "attn.c_attn.weight", qkv, transposed_rows, has_bias=True)


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `gpt2`, whose matrices lie as outputs by inputs."""
    names = without(gguf_decoder_names(config), "mlp.gate") | named({"positions": "position_embd.weight"})
    names |= biases(names, *NORMS, *MATRICES)
    qkv = dict.fromkeys(QUERY_KEY_VALUE, config.integer("embedding_length"))
    return gguf_decoder(
        config,
        "GPT2LMHeadModel",
        names | merged("blk.{layer}.attn_qkv.weight", qkv, has_bias=True),
        **COMPONENTS,
        layers=(LayerSpec(None),) * config.num_layers,
        norm_eps=config.number("attention.layer_norm_epsilon"),
    )
