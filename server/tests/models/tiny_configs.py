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

WINDOW = 8
"""Shorter than every prompt of the parity tests."""

EXPERTS = {"num_experts_per_tok": 2, "norm_topk_prob": True, "moe_intermediate_size": 48, "num_experts": 5}

GEMMA = {**TINY, "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": WINDOW, "pad_token_id": 0}

NEOX = {**TINY, "num_key_value_heads": 4, "eos_token_id": 0}

FALCON = {**TINY, "num_key_value_heads": 1, "intermediate_size": 256, "bos_token_id": 0, "eos_token_id": 0}
NEW_FALCON = {**FALCON, "num_key_value_heads": 2, "num_kv_heads": 2, "new_decoder_architecture": True}

TINY_GPT2 = {
    "n_layer": 2,
    "n_embd": 64,
    "n_head": 4,
    "vocab_size": 101,
    "n_positions": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + i / 10 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 16,
}

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}

TINY_CONFIGS: dict[str, dict[str, Any]] = {
    "CohereForCausalLM": {**TINY, "pad_token_id": 0, "logit_scale": 0.5},
    "Cohere2ForCausalLM": {
        **TINY,
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "pad_token_id": 0,
        "logit_scale": 0.5,
    },
    "FalconForCausalLM": FALCON,
    "GPT2LMHeadModel": TINY_GPT2,
    "GPTNeoXForCausalLM": NEOX,
    "GemmaForCausalLM": {**TINY, "head_dim": 32, "pad_token_id": 0},
    "Gemma2ForCausalLM": {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 20.0},
    "Gemma3ForCausalLM": {**GEMMA, "num_hidden_layers": 3, "sliding_window_pattern": 3},
    "Gemma3ForConditionalGeneration": {
        "text_config": {**GEMMA, "num_hidden_layers": 3, "sliding_window_pattern": 3},
        "vision_config": {
            "num_hidden_layers": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
        },
        "mm_tokens_per_image": 4,
    },
    "Glm4ForCausalLM": {**TINY, "head_dim": 16, "pad_token_id": 0, "eos_token_id": [0]},
    "GraniteForCausalLM": {
        **TINY,
        "embedding_multiplier": 6.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.4,
        "logits_scaling": 2.0,
    },
    "LlamaForCausalLM": TINY,
    "MistralForCausalLM": {**TINY, "sliding_window": WINDOW},
    "MixtralForCausalLM": {**TINY, "num_local_experts": 5, "num_experts_per_tok": 2},
    "Olmo2ForCausalLM": {**TINY, "pad_token_id": 0},
    "PhiForCausalLM": TINY,
    "Phi3ForCausalLM": {**TINY, "sliding_window": WINDOW, "pad_token_id": 0},
    "Qwen2ForCausalLM": TINY,
    "Qwen2MoeForCausalLM": {**TINY, **EXPERTS, "norm_topk_prob": False, "shared_expert_intermediate_size": 32},
    "Qwen3ForCausalLM": {**TINY, "head_dim": 16},
    "Qwen3MoeForCausalLM": {**TINY, **EXPERTS, "head_dim": 16},
    "SmolLM3ForCausalLM": {**TINY, "num_hidden_layers": 4, "pad_token_id": 0},
    "Starcoder2ForCausalLM": {**TINY, "sliding_window": WINDOW},
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, config) for name, config in TINY_CONFIGS.items()},
    "llama, tied head": ("LlamaForCausalLM", {**TINY, "tie_word_embeddings": True}),
    "llama, as many key-value heads as query heads": ("LlamaForCausalLM", {**TINY, "num_key_value_heads": 4}),
    "llama, one key-value head": ("LlamaForCausalLM", {**TINY, "num_key_value_heads": 1}),
    "llama, llama3 rope": ("LlamaForCausalLM", {**TINY, "rope_parameters": LLAMA3_ROPE}),
    "llama, linear rope": (
        "LlamaForCausalLM",
        {**TINY, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}},
    ),
    "llama, dynamic rope": (
        "LlamaForCausalLM",
        {**TINY, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0}},
    ),
    "llama, head_dim of its own": ("LlamaForCausalLM", {**TINY, "head_dim": 32}),
    "llama, biases": ("LlamaForCausalLM", {**TINY, "attention_bias": True, "mlp_bias": True}),
    "mistral, no window": ("MistralForCausalLM", {**TINY, "sliding_window": None}),
    "mixtral, window": (
        "MixtralForCausalLM",
        {**TINY, "num_local_experts": 4, "num_experts_per_tok": 3, "sliding_window": WINDOW},
    ),
    "qwen2, yarn rope": ("Qwen2ForCausalLM", {**TINY, "rope_parameters": YARN}),
    "qwen2, window in the last layer": (
        "Qwen2ForCausalLM",
        {**TINY, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen2_moe, a dense layer among three": (
        "Qwen2MoeForCausalLM",
        {
            **TINY,
            **EXPERTS,
            "num_hidden_layers": 3,
            "mlp_only_layers": [1],
            "shared_expert_intermediate_size": 32,
        },
    ),
    "qwen3_moe, experts in every second layer": (
        "Qwen3MoeForCausalLM",
        {**TINY, **EXPERTS, "head_dim": 16, "num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
    ),
    "smollm3, windows without positions": (
        "SmolLM3ForCausalLM",
        {
            **TINY,
            "no_rope_layers": [0, 1],
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
        },
    ),
    "starcoder2, no biases of matrices": ("Starcoder2ForCausalLM", {**TINY, "use_bias": False}),
    "gpt_neox, one half after the other": (
        "GPTNeoXForCausalLM",
        {**NEOX, "use_parallel_residual": False, "hidden_act": "gelu_new"},
    ),
    "falcon, new architecture": ("FalconForCausalLM", NEW_FALCON),
    "falcon, new architecture with one norm": (
        "FalconForCausalLM",
        {**NEW_FALCON, "num_ln_in_parallel_attn": 1, "ffn_hidden_size": 96},
    ),
    "falcon, as many key-value heads as query heads": (
        "FalconForCausalLM",
        {**FALCON, "multi_query": False, "num_key_value_heads": 4},
    ),
    "gemma3, stretched": (
        "Gemma3ForCausalLM",
        {
            **GEMMA,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi3, longrope beyond the original length": (
        "Phi3ForCausalLM",
        {**TINY, "pad_token_id": 0, "original_max_position_embeddings": 16, "rope_parameters": LONGROPE},
    ),
    "phi3, partly rotated": (
        "Phi3ForCausalLM",
        {**TINY, "pad_token_id": 0, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
}
