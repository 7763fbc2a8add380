"""SmolLM3: Llama's shape; every fourth layer, unless told otherwise, turns nothing by position."""

from __future__ import annotations

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import FULL, SLIDING, HfConfig
from forebay_worker.models.hf_decoder import hf_decoder, hf_names
from forebay_worker.models.spec import DecoderSpec, LayerSpec
from forebay_worker.weights.names import with_adjacent_rotary

INTERVAL = 4


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    num_layers, interval = config.integer("num_hidden_layers"), config.integer("no_rope_layer_interval", INTERVAL)
    has_rope = config.integers("no_rope_layers", num_layers) or [(n + 1) % interval for n in range(num_layers)]
    # Layers without positions are those that see a window, if there is one.
    is_windowed = config.flag("use_sliding_window", False) and config.fields.get("sliding_window") is not None
    usual = [SLIDING if is_windowed and not rope else FULL for rope in has_rope]
    windows = config.windows(usual) if is_windowed else [0] * num_layers
    rope = config.rope(config.integer("hidden_size") // config.integer("num_attention_heads"))
    return hf_decoder(
        config,
        hf_names(config),
        layers=tuple(LayerSpec(rope if has else None, window) for has, window in zip(has_rope, windows, strict=True)),
        max_position_embeddings=config.integer("max_position_embeddings", 32768),
        num_kv_heads=config.integer("num_key_value_heads", 4),
        tied_head=config.flag("tie_word_embeddings", True),
    )


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `smollm3`. Raises: ModelRefusedError for what is not built."""
    names = with_adjacent_rotary(gguf_decoder_names(config), config.head_dim)
    rope = config.rope()
    layers = tuple(LayerSpec(rope if (n + 1) % INTERVAL else None) for n in range(config.num_layers))
    return gguf_decoder(config, "SmolLM3ForCausalLM", names, layers=layers)
