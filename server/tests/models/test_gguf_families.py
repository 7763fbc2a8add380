"""Every GGUF architecture against the folder that its file was made from."""

from __future__ import annotations

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from forebay_worker.models.registry import GGUF_FAMILIES
from forebay_worker.models.source import open_model
from forebay_worker.weights.gguf import GgufFile

from .convert_gguf import convert
from .tiny_configs import EXPERTS, FALCON, GEMMA, LONGROPE, NEOX, NEW_FALCON, TINY, TINY_CONFIGS, WINDOW, YARN

LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}

IDS = torch.randint(0, 101, (40,), generator=torch.Generator().manual_seed(1)).tolist()

CASES = {
    "gemma": ("gemma", "GemmaForCausalLM", TINY_CONFIGS["GemmaForCausalLM"]),
    "cohere2": ("cohere2", "Cohere2ForCausalLM", TINY_CONFIGS["Cohere2ForCausalLM"]),
    "command-r": ("command-r", "CohereForCausalLM", TINY_CONFIGS["CohereForCausalLM"]),
    "falcon": ("falcon", "FalconForCausalLM", FALCON),
    "falcon, new architecture": ("falcon", "FalconForCausalLM", NEW_FALCON),
    "gemma2": ("gemma2", "Gemma2ForCausalLM", {**TINY_CONFIGS["Gemma2ForCausalLM"], "query_pre_attn_scalar": 16}),
    "gemma3": (
        "gemma3",
        "Gemma3ForCausalLM",
        {**GEMMA, "query_pre_attn_scalar": 16, "num_hidden_layers": 7},
    ),
    "gpt2": ("gpt2", "GPT2LMHeadModel", TINY_CONFIGS["GPT2LMHeadModel"]),
    "glm4": ("glm4", "Glm4ForCausalLM", TINY_CONFIGS["Glm4ForCausalLM"]),
    "gptneox": ("gptneox", "GPTNeoXForCausalLM", TINY_CONFIGS["GPTNeoXForCausalLM"]),
    "granite": ("granite", "GraniteForCausalLM", TINY_CONFIGS["GraniteForCausalLM"]),
    "llama": ("llama", "LlamaForCausalLM", {**TINY, "attention_bias": True}),
    "llama, linear rope": ("llama", "LlamaForCausalLM", {**TINY, "rope_parameters": LINEAR}),
    "llama, yarn rope": ("llama", "LlamaForCausalLM", {**TINY, "rope_parameters": YARN}),
    "qwen2, yarn rope with ends of its own": (
        "qwen2",
        "Qwen2ForCausalLM",
        {**TINY, "rope_parameters": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}},
    ),
    "llama with experts": ("llama", "MixtralForCausalLM", TINY_CONFIGS["MixtralForCausalLM"]),
    "olmo2": ("olmo2", "Olmo2ForCausalLM", TINY_CONFIGS["Olmo2ForCausalLM"]),
    "phi2": ("phi2", "PhiForCausalLM", TINY_CONFIGS["PhiForCausalLM"]),
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
    "smollm3": ("smollm3", "SmolLM3ForCausalLM", TINY_CONFIGS["SmolLM3ForCausalLM"]),
    "starcoder2": ("starcoder2", "Starcoder2ForCausalLM", {**TINY, "sliding_window": None}),
    "qwen3moe": ("qwen3moe", "Qwen3MoeForCausalLM", {**TINY, **EXPERTS, "head_dim": 16}),
}


def test_every_registered_architecture_has_a_case():
    assert {case[0] for case in CASES.values()} == set(GGUF_FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_the_logits_of_its_folder(make_folder, load, case):
    architecture, hf_architecture, fields = CASES[case]
    folder, _ = make_folder(hf_architecture, fields)
    expected = load(folder).step([(0, IDS)])
    actual = load(convert(folder, architecture)).step([(0, IDS)])
    # Same values, same operations, float32 throughout.
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_a_factor_without_a_type_is_linear_as_llama_cpp_has_it(make_folder, load):
    folder, _ = make_folder("LlamaForCausalLM", {**TINY, "rope_parameters": LINEAR})
    path = convert(folder, "llama")
    raw = path.read_bytes()
    assert raw.count(b"llama.rope.scaling.type") == 1
    path.write_bytes(raw.replace(b"llama.rope.scaling.type", b"llama.rope.scaling.typo"))
    with pytest.raises(ValueError, match=r"`llama.rope.scaling.typo` of .* is `linear`, which is not supported"):
        load(path)
    path.write_bytes(raw.replace(b"llama.rope.scaling.type", b"other.rope.scaling.type"))
    assert torch.equal(load(path).step([(0, IDS)]), load(convert(folder, "llama")).step([(0, IDS)]))


MIXED = {"ffn_gate_exps": Type.Q4_K, "ffn_up_exps": Type.Q5_K, "ffn_down_exps": Type.Q6_K}
MIXED |= {name.replace("exps", "shexp"): Type.Q8_0 for name in MIXED} | {"attn_q": Type.Q8_0}
WIDE = {**TINY, "hidden_size": 256, "head_dim": 64, "initializer_range": 0.05}
WIDE_EXPERTS = {**WIDE, **EXPERTS, "moe_intermediate_size": 512}
QUANTIZED_CASES = {
    "llama": (
        "MixtralForCausalLM",
        {**WIDE, "intermediate_size": 512, "num_local_experts": 5, "num_experts_per_tok": 2},
    ),
    "qwen2moe": (
        "Qwen2MoeForCausalLM",
        {**WIDE_EXPERTS, "norm_topk_prob": False, "shared_expert_intermediate_size": 64},
    ),
    "qwen3moe": ("Qwen3MoeForCausalLM", WIDE_EXPERTS),
}


def quantized_type(name: str) -> Type:
    return MIXED.get(name.split(".")[-2], Type.F32) if name.endswith("weight") else Type.F32


@pytest.mark.parametrize("architecture", QUANTIZED_CASES)
def test_quantized_experts_compute_what_their_values_do(make_folder, load, architecture):
    folder, _ = make_folder(*QUANTIZED_CASES[architecture])
    decoded = convert(folder, architecture, type_of=quantized_type, decoded=True)
    expected = load(decoded).step([(0, IDS)])
    path = convert(folder, architecture, type_of=quantized_type)
    actual = load(path, kv_cache_dtype="float32").step([(0, IDS)])
    # Activations of 16 bits through two layers; no token here is so near to a tie of experts that they change its mind.
    assert (actual - expected).abs().max() < 1e-3 * expected.abs().max()


def test_a_tensor_for_each_expert_as_old_files_have_it_gives_the_logits_of_the_stack(make_folder, load):
    folder, _ = make_folder("MixtralForCausalLM", TINY_CONFIGS["MixtralForCausalLM"])
    path = convert(folder, "llama", is_old=True)
    assert "blk.1.ffn_down.4.weight" in GgufFile(path).names()
    assert torch.equal(load(path).step([(0, IDS)]), load(convert(folder, "llama")).step([(0, IDS)]))


@pytest.mark.parametrize(
    ("architecture", "num_shards", "message"),
    [
        ("qwen3moe", 4, r"the `512` columns of `blk.0.ffn_down_exps.weight` do not divide into whole blocks of 256"),
        ("qwen2moe", 4, r"the `64` columns of `blk.0.ffn_down_shexp.weight` do not divide into whole blocks of 32"),
    ],
)
def test_shards_that_would_cut_a_block_of_an_expert_are_refused(make_folder, architecture, num_shards, message):
    types = {"ffn_down_exps": Type.Q6_K if architecture == "qwen3moe" else Type.F32, "ffn_down_shexp": Type.Q8_0}
    folder, _ = make_folder(*QUANTIZED_CASES[architecture])
    source = open_model(convert(folder, architecture, type_of=lambda name: types.get(name.split(".")[-2], Type.F32)))
    source.check_num_shards(2)
    with pytest.raises(ValueError, match=message + r" for each shard; what works: 1, 2$"):
        source.check_num_shards(num_shards)


def test_a_granite_file_without_positions_is_refused(make_folder, load):
    folder, _ = make_folder("GraniteForCausalLM", TINY_CONFIGS["GraniteForCausalLM"])
    path = convert(folder, "granite", keys={"rope.scaling.finetuned": False})
    with pytest.raises(ValueError, match=r"`granite.rope.scaling.finetuned` of .* is `False`, which is not supported"):
        load(path)


def test_gpt_neox_says_whether_its_halves_lie_side_by_side(make_folder, load):
    folder, _ = make_folder("GPTNeoXForCausalLM", {**NEOX, "use_parallel_residual": False})
    path = convert(folder, "gptneox", keys={"use_parallel_residual": False})
    expected, actual = load(folder).step([(0, IDS)]), load(path).step([(0, IDS)])
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
