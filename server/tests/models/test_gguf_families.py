"""Every GGUF architecture against the folder that its file was made from."""

from __future__ import annotations

import pytest
import torch

from forebay_worker.models.registry import GGUF_FAMILIES

from .convert_gguf import convert
from .tiny_configs import EXPERTS, GEMMA, LONGROPE, TINY, TINY_CONFIGS, WINDOW

CASES = {
    "gemma2": ("gemma2", "Gemma2ForCausalLM", {**TINY_CONFIGS["Gemma2ForCausalLM"], "query_pre_attn_scalar": 16}),
    "gemma3": (
        "gemma3",
        "Gemma3ForCausalLM",
        {**GEMMA, "query_pre_attn_scalar": 16, "num_hidden_layers": 7},
    ),
    "gpt2": ("gpt2", "GPT2LMHeadModel", TINY_CONFIGS["GPT2LMHeadModel"]),
    "llama": ("llama", "LlamaForCausalLM", {**TINY, "attention_bias": True}),
    "llama with experts": ("llama", "MixtralForCausalLM", TINY_CONFIGS["MixtralForCausalLM"]),
    "phi3": ("phi3", "Phi3ForCausalLM", TINY_CONFIGS["Phi3ForCausalLM"]),
    "phi3, longrope": (
        "phi3",
        "Phi3ForCausalLM",
        {
            **TINY,
            "pad_token_id": 0,
            "sliding_window": WINDOW,
            "original_max_position_embeddings": 16,
            "rope_parameters": LONGROPE,
        },
    ),
    "qwen2": ("qwen2", "Qwen2ForCausalLM", TINY_CONFIGS["Qwen2ForCausalLM"]),
    "qwen2moe": ("qwen2moe", "Qwen2MoeForCausalLM", TINY_CONFIGS["Qwen2MoeForCausalLM"]),
    "qwen3": ("qwen3", "Qwen3ForCausalLM", TINY_CONFIGS["Qwen3ForCausalLM"]),
    "qwen3moe": ("qwen3moe", "Qwen3MoeForCausalLM", {**TINY, **EXPERTS, "head_dim": 16}),
}


def test_every_registered_architecture_has_a_case():
    assert {case[0] for case in CASES.values()} == set(GGUF_FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_the_logits_of_its_folder(make_folder, load, case):
    architecture, hf_architecture, fields = CASES[case]
    folder, _ = make_folder(hf_architecture, fields)
    ids = torch.randint(0, 101, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    expected = load(folder).step([(0, ids)])
    actual = load(convert(folder, architecture)).step([(0, ids)])
    # Same values, same operations, float32 throughout.
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
