"""Mistral: Llama's shape; its sliding window is refused unless no sequence can be longer than it."""

from __future__ import annotations

import dataclasses

from forebay_worker.models.families import llama
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.errors import ModelRefusedError

DEFAULT_MAX_POSITION_EMBEDDINGS = 4096 * 32
"""transformers' `MistralConfig`; so is a window of 4096 when the field is absent, which null switches off."""


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    max_positions = config.integer("max_position_embeddings", DEFAULT_MAX_POSITION_EMBEDDINGS)
    window = config.fields.get("sliding_window", 4096)
    if window is not None and window < max_positions:
        raise ModelRefusedError(
            f"`sliding_window` of `{config.path}` is `{window}`, below `max_position_embeddings` `{max_positions}`; "
            "sliding windows are not supported"
        )
    spec = llama.from_config(config)
    return dataclasses.replace(
        spec,
        max_position_embeddings=max_positions,
        num_kv_heads=config.integer("num_key_value_heads", 8),
    )
