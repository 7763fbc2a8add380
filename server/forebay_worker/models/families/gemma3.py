"""Gemma 3 (text): Gemma 2's shape, norms of heads in place of bounds, a rotary base of its own in windowed layers."""

from __future__ import annotations

from collections.abc import Mapping

from forebay_worker.models.families.gemma2 import gemma_fields, gemma_names, gguf_attention_scale, gguf_fields
from forebay_worker.models.families.qwen3 import ATTENTION, HEAD_NORMS
from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import GGUF_HEAD_NORMS, GGUF_OUTPUT_NORMS, gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import FULL, SLIDING, HfConfig
from forebay_worker.models.hf_decoder import hf_decoder
from forebay_worker.models.rope_config import RopeParameters
from forebay_worker.models.spec import DecoderSpec, LayerSpec, RopeSpec
from forebay_worker.weights.names import named

PATTERN = 6
"""Every sixth layer sees all."""
LOCAL_THETA = 10000.0
GLOBAL_THETA = 1000000.0


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    pattern = config.integer("sliding_window_pattern", PATTERN)
    num_layers = config.integer("num_hidden_layers")
    windows = config.windows([SLIDING if (layer + 1) % pattern else FULL for layer in range(num_layers)])
    fields = gemma_fields(config, 0.0, 0.0)
    max_positions = config.integer("max_position_embeddings", 131072)
    ropes = _ropes(config, fields["head_dim"], max_positions)
    return hf_decoder(
        config,
        gemma_names(config) | named(HEAD_NORMS),
        **{**fields, "max_position_embeddings": max_positions},
        layers=tuple(LayerSpec(ropes[SLIDING if window else FULL], window) for window in windows),
        attention=ATTENTION,
    )


def _ropes(config: HfConfig, head_dim: int, max_positions: int) -> dict[str, RopeSpec]:
    """By type of layer; older files have `rope_theta` and `rope_scaling` for full ones, `rope_local_base_freq`."""
    nested = config.fields.get("rope_parameters") or {}
    thetas = {
        FULL: config.number("rope_theta", GLOBAL_THETA),
        SLIDING: config.number("rope_local_base_freq", LOCAL_THETA),
    }
    older = {FULL: config.fields.get("rope_scaling")}
    ropes = {}
    for kind, theta in thetas.items():
        own = nested.get(kind) if isinstance(nested, Mapping) else nested
        ropes[kind] = RopeParameters(own or older.get(kind) or {}, config.path, max_positions).spec(head_dim, theta)
    return ropes


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `gemma3`. Raises: ModelRefusedError for what is not built."""
    window = config.integer("attention.sliding_window")
    local = RopeSpec(config.number("rope.freq_base_swa", LOCAL_THETA), config.head_dim)
    whole = LayerSpec(config.rope(GLOBAL_THETA))
    layers = [LayerSpec(local, window) if (layer + 1) % PATTERN else whole for layer in range(config.num_layers)]
    return gguf_decoder(
        config,
        "Gemma3ForCausalLM",
        gguf_decoder_names(config) | named(GGUF_HEAD_NORMS) | named(GGUF_OUTPUT_NORMS),
        **gguf_fields(config),
        layers=tuple(layers),
        attention=ATTENTION,
        attention_scale=gguf_attention_scale(config, 62),
    )
