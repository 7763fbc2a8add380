"""Gemma 2: Gemma with norms before and after each part, every second layer windowed, bounded scores and logits."""

from __future__ import annotations

import math
from typing import Any

from forebay_worker.models.families import gemma
from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import GGUF_OUTPUT_NORMS, gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import FULL, SLIDING, HfConfig
from forebay_worker.models.hf_decoder import hf_decoder, hf_names
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import WeightName, named

COMPONENTS = {**gemma.COMPONENTS, "block": "forebay_worker.models.blocks:SandwichNormBlock"}
SOFTCAPPED_HEAD = "forebay_worker.layers.embedding:SoftcappedHead"


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    num_layers = config.integer("num_hidden_layers")
    windows = config.windows([FULL if layer % 2 else SLIDING for layer in range(num_layers)])
    return hf_decoder(config, gemma_names(config), windows, **gemma_fields(config, 50.0, 30.0))


def gemma_names(config: HfConfig) -> dict[str, WeightName]:
    """Names of the tensors; the norm before the feed-forward layer is not where Llama has it."""
    layer = "model.layers.{layer}."
    return hf_names(config) | named(
        {
            "attention.output_norm": layer + "post_attention_layernorm.weight",
            "mlp.norm": layer + "pre_feedforward_layernorm.weight",
            "mlp.output_norm": layer + "post_feedforward_layernorm.weight",
        }
    )


def gemma_fields(config: HfConfig, attention_softcap: float, final_softcap: float) -> dict[str, Any]:
    """DecoderSpec's fields that Gemma 2 and 3 share; the softcaps are for a configuration without the fields."""
    final_softcap = config.softcap("final_logit_softcapping", final_softcap)
    return {
        **gemma.gemma_fields(config, num_kv_heads=4),
        **COMPONENTS,
        **({"head": SOFTCAPPED_HEAD, "final_softcap": final_softcap} if final_softcap else {}),
        "attention_scale": config.number("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": config.softcap("attn_logit_softcapping", attention_softcap),
    }


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `gemma2`. Raises: ModelRefusedError for what is not built."""
    window = config.integer("attention.sliding_window", 4096)
    return gguf_decoder(
        config,
        "Gemma2ForCausalLM",
        gguf_decoder_names(config) | named(GGUF_OUTPUT_NORMS),
        [0 if layer % 2 else window for layer in range(config.num_layers)],
        **gguf_fields(config),
        head=SOFTCAPPED_HEAD,
        final_softcap=config.number("final_logit_softcapping", 30.0),
        attention_softcap=config.number("attn_logit_softcapping", 50.0),
        attention_scale=gguf_attention_scale(config, 46),
    )


def gguf_fields(config: GgufConfig) -> dict[str, Any]:
    """DecoderSpec's fields that files of Gemma 2 and 3 share."""
    return {**gemma.gguf_fields(config), **COMPONENTS}


def gguf_attention_scale(config: GgufConfig, num_layers_of_27b: int) -> float:
    """The file does not say it: the largest model takes the model width by heads, the others the head's width."""
    if config.num_layers == num_layers_of_27b:
        return 1 / math.sqrt(config.integer("embedding_length") / config.num_heads)
    return 1 / math.sqrt(config.head_dim)
