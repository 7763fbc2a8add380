"""Writes a folder's tensors as llama.cpp's converter would: its names, its keys, its changes of the values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import safetensors.numpy

from .tiny_gguf import quantized

NAMES = {
    "embed_tokens": "token_embd", "lm_head": "output", "input_layernorm": "attn_norm", "q_proj": "attn_q",
    "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
    "down_proj": "ffn_down", "qkv_proj": "attn_qkv", "gate_up_proj": "ffn_up", "gate": "ffn_gate_inp",
    "shared_expert_gate": "ffn_gate_inp_shexp", "w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up",
    "wte": "token_embd", "wpe": "position_embd", "ln_1": "attn_norm", "ln_2": "ffn_norm", "ln_f": "output_norm",
    "c_attn": "attn_qkv", "c_fc": "ffn_up", "norm": "output_norm", "c_proj": "ffn_down",
    "word_embeddings": "token_embd", "ln_attn": "attn_norm_2", "ln_mlp": "attn_norm",
    "embed_in": "token_embd", "embed_out": "output", "query_key_value": "attn_qkv", "dense_h_to_4h": "ffn_up",
    "dense_4h_to_h": "ffn_down", "final_layer_norm": "output_norm",
    "dense": "attn_output", "fc1": "ffn_up", "fc2": "ffn_down", "final_layernorm": "output_norm",
    "post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm",
}  # fmt: skip

KEYS = {
    "block_count": ("num_hidden_layers", "n_layer"),
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd"),
    "feed_forward_length": ("intermediate_size",),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.sliding_window": ("sliding_window",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "norm_epsilon", "layer_norm_eps"),
    "attention.scale": ("attention_multiplier",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logits_scaling", "logit_scale"),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "vocab_size": ("vocab_size",),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
}


F32 = gguf.GGMLQuantizationType.F32


def convert(
    folder: Path,
    architecture: str,
    *,
    type_of: Callable[[str], gguf.GGMLQuantizationType] = lambda name: F32,
    decoded: bool = False,
    is_old: bool = False,
    keys: Mapping[str, bool] | None = None,
) -> Path:
    """The .gguf file of a folder. `type_of`: tensor -> type; all float32 unless told otherwise.

    `decoded`: write in float32 the values that the types would hold. `is_old`: each expert a tensor of its own.
    `keys`: more of the architecture's.
    """
    config = json.loads((folder / "config.json").read_text())
    path = folder / ("decoded.gguf" if decoded else "old.gguf" if is_old else "model.gguf")
    writer = gguf.GGUFWriter(path, architecture)
    for key, sources in KEYS.items():
        value = next((config[source] for source in sources if config.get(source)), None)
        if isinstance(value, int):
            writer.add_uint32(f"{architecture}.{key}", value)
        elif value is not None:
            writer.add_float32(f"{architecture}.{key}", value)
    for key, flag in (keys or {}).items():
        writer.add_bool(f"{architecture}.{key}", flag)
    if architecture == "gpt2":
        writer.add_uint32("gpt2.feed_forward_length", 4 * config["n_embd"])
    rope = config.get("rope_parameters") or {}
    theta = rope.get("rope_theta", rope.get("full_attention", {}).get("rope_theta"))
    if theta:
        writer.add_float32(f"{architecture}.rope.freq_base", theta)
    if part := rope.get("partial_rotary_factor"):
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        writer.add_uint32(f"{architecture}.rope.dimension_count", int(part * head_dim))
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    for name, values in _converted(tensors, architecture, config, is_old=is_old).items():
        values = np.ascontiguousarray(values)
        kind = type_of(name)
        raw = values if kind == F32 else quantized(values, kind)
        if decoded:
            raw, kind = gguf.quants.dequantize(raw, kind), F32
        writer.add_tensor(name, raw, raw_dtype=kind)
    _add_rope_scaling(writer, architecture, rope)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_rope_scaling(writer: gguf.GGUFWriter, architecture: str, rope: dict) -> None:
    if rope.get("rope_type") in ("linear", "yarn"):
        writer.add_string(f"{architecture}.rope.scaling.type", rope["rope_type"])
    for key in ("factor", "attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        if (value := rope.get(key.removeprefix("yarn_"))) is not None:
            writer.add_float32(f"{architecture}.rope.scaling.{key}", value)
    if original := rope.get("original_max_position_embeddings"):
        writer.add_uint32(f"{architecture}.rope.scaling.original_context_length", original)
    if "short_factor" in rope:
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))


def _converted(
    tensors: dict[str, np.ndarray], architecture: str, config: dict, *, is_old: bool
) -> dict[str, np.ndarray]:
    converted: dict[str, np.ndarray] = {}
    experts: dict[str, dict[int, np.ndarray]] = {}
    for hf_name, values in tensors.items():
        name = _name(hf_name, architecture)
        values = _changed(hf_name, values, architecture, config)
        match = re.search(r"experts\.(\d+)\.", hf_name)
        if match and is_old:
            converted[name.replace("_exps", f".{match[1]}")] = values
        elif match:
            experts.setdefault(name, {})[int(match[1])] = values
        else:
            converted[name] = values
    for name, parts in experts.items():
        converted[name] = np.stack([parts[expert] for expert in sorted(parts)])
    return converted


def _name(hf_name: str, architecture: str) -> str:
    layer = re.search(r"\.(?:layers|h)\.(\d+)\.", hf_name)
    *_, last, kind = hf_name.split(".")
    name = "attn_output" if "attn.c_proj" in hf_name else NAMES[last]
    if architecture in ("gemma2", "gemma3", "olmo2") and last == "post_attention_layernorm":
        name = "post_attention_norm"
    name += "_exps" if "experts." in hf_name and "shared" not in hf_name else ""
    name += "_shexp" if "shared_expert." in hf_name else ""
    return f"blk.{layer[1]}.{name}.{kind}" if layer else f"{name}.{kind}"


def _changed(hf_name: str, values: np.ndarray, architecture: str, config: dict) -> np.ndarray:
    if architecture.startswith("gemma") and "norm" in hf_name:
        return values + 1
    if architecture == "gpt2" and ".c_" in hf_name and hf_name.endswith("weight"):
        return values.T
    if "query_key_value" in hf_name:
        groups, size = config["num_key_value_heads"], config["num_attention_heads"] // config["num_key_value_heads"]
        heads = values.reshape(groups, size + 2, -1, *values.shape[1:])
        parts = [heads[:, part].reshape(-1, *values.shape[1:]) for part in (slice(size), size, size + 1)]
        return np.concatenate(parts)
    if architecture in ("llama", "granite", "smollm3") and re.search(r"\.[qk]_proj\.", hf_name):
        heads = config["num_attention_heads" if ".q_proj." in hf_name else "num_key_value_heads"]
        return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    return values[0] if "shared_expert_gate" in hf_name else values
