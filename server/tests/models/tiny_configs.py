"""One small random configuration for each registered architecture, and variants worth a test of their own."""

from __future__ import annotations

from typing import Any

TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 256,
    # Weights large enough that greedy choices are clear of float32 rounding.
    "initializer_range": 0.2,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

TINY_CONFIGS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": TINY,
    "MistralForCausalLM": {**TINY, "sliding_window": None},
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, config) for name, config in TINY_CONFIGS.items()},
    "llama, tied head": ("LlamaForCausalLM", {**TINY, "tie_word_embeddings": True}),
    "llama, as many key-value heads as query heads": ("LlamaForCausalLM", {**TINY, "num_key_value_heads": 4}),
    "llama, one key-value head": ("LlamaForCausalLM", {**TINY, "num_key_value_heads": 1}),
    "llama, llama3 rope": ("LlamaForCausalLM", {**TINY, "rope_parameters": LLAMA3_ROPE}),
    "llama, head_dim of its own": ("LlamaForCausalLM", {**TINY, "head_dim": 32}),
}
