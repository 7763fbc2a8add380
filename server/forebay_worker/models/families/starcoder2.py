"""StarCoder2: rotary positions and grouped queries, LayerNorm, biases everywhere, a feed-forward layer without gate."""

from __future__ import annotations

from typing import Any

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import QUERY_KEY_VALUE, hf_decoder
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import biases, hf_decoder_names, named, without

COMPONENTS: dict[str, Any] = {
    "mlp": "forebay_worker.layers.mlp:GeluMlp",
    "norm": "forebay_worker.layers.norm:LayerNorm",
}
NORMS = ("attention.norm", "mlp.norm", "norm")
MATRICES = (*QUERY_KEY_VALUE, "attention.output", "mlp.up", "mlp.down")


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "gelu_pytorch_tanh")
    mlp = "model.layers.{layer}.mlp."
    names = without(hf_decoder_names(), "mlp.gate")
    names |= named({"mlp.up": mlp + "c_fc.weight", "mlp.down": mlp + "c_proj.weight"})
    names |= biases(names, *NORMS)
    if config.flag("use_bias", True):
        names |= biases(names, *MATRICES)
    return hf_decoder(
        config,
        names,
        [config.window()] * config.integer("num_hidden_layers"),
        **COMPONENTS,
        max_position_embeddings=config.integer("max_position_embeddings", 4096),
        num_kv_heads=config.integer("num_key_value_heads", 2),
        norm_eps=config.number("norm_epsilon", 1e-5),
        tied_head=config.flag("tie_word_embeddings", True),
    )


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `starcoder2`. Raises: ModelRefusedError for what is not built."""
    names = without(gguf_decoder_names(config, *MATRICES), "mlp.gate")
    names |= biases(names, *NORMS)
    epsilon = config.number("attention.layer_norm_epsilon")
    return gguf_decoder(config, "Starcoder2ForCausalLM", names, **COMPONENTS, norm_eps=epsilon)
