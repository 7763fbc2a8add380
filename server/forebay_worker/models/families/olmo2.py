"""OLMo 2: norms after each part instead of before, and of all heads of queries and keys together."""

from __future__ import annotations

from typing import Any

from forebay_worker.models.families.qwen3 import HEAD_NORMS
from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import (
    GGUF_HEAD_NORMS,
    GGUF_OUTPUT_NORMS,
    gguf_decoder,
    gguf_decoder_names,
)
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import hf_decoder, hf_names
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import named, without

COMPONENTS: dict[str, Any] = {
    "attention": "forebay_worker.layers.attention:JointlyNormedAttention",
    "block": "forebay_worker.models.blocks:PostNormBlock",
}


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    layer = "model.layers.{layer}."
    names = without(hf_names(config), "attention.norm", "mlp.norm") | named(HEAD_NORMS)
    names |= named(
        {
            "attention.output_norm": layer + "post_attention_layernorm.weight",
            "mlp.output_norm": layer + "post_feedforward_layernorm.weight",
        }
    )
    return hf_decoder(config, names, **COMPONENTS, norm_eps=config.number("rms_norm_eps", 1e-5))


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `olmo2`. Raises: ModelRefusedError for what is not built."""
    names = without(gguf_decoder_names(config), "attention.norm", "mlp.norm")
    return gguf_decoder(
        config, "Olmo2ForCausalLM", names | named(GGUF_HEAD_NORMS) | named(GGUF_OUTPUT_NORMS), **COMPONENTS
    )
