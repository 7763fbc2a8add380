"""Command-R7B and Command A: Command-R with windows; every fourth layer sees all, and no positions."""

from __future__ import annotations

from collections.abc import Sequence

from forebay_worker.models.families.cohere import cohere_fields, cohere_names, gguf_fields, gguf_names
from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder
from forebay_worker.models.hf_config import FULL, SLIDING, HfConfig
from forebay_worker.models.hf_decoder import hf_decoder
from forebay_worker.models.spec import DecoderSpec, LayerSpec, RopeSpec

PATTERN = 4


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    num_layers, pattern = config.integer("num_hidden_layers"), config.integer("sliding_window_pattern", PATTERN)
    windows = config.windows([SLIDING if (layer + 1) % pattern else FULL for layer in range(num_layers)])
    rope = config.rope(config.integer("hidden_size") // config.integer("num_attention_heads"))
    return hf_decoder(config, cohere_names(config), **cohere_fields(config), layers=_layers(rope, windows))


def _layers(rope: RopeSpec, windows: Sequence[int]) -> tuple[LayerSpec, ...]:
    return tuple(LayerSpec(rope if window else None, window) for window in windows)


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `cohere2`. Raises: ModelRefusedError for what is not built."""
    window = config.integer("attention.sliding_window")
    windows = [window if (layer + 1) % PATTERN else 0 for layer in range(config.num_layers)]
    layers = _layers(config.rope(), windows)
    return gguf_decoder(config, "Cohere2ForCausalLM", gguf_names(config), **gguf_fields(config), layers=layers)
