"""Writes the bundled GGUF model as a folder that transformers and peers can read: in float32 the reference of checks.

Usage: python tools/make_smollm2_folder.py [--dtype float32|bfloat16] OUT_DIR

Decodes with the gguf package, not with our own readers and kernels, so that it can judge them. The tokenizer is
written from the header by hand: transformers' own conversion of this file splits digits wrongly.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from forebay_worker.hub import bundled_model

CONTROL = 3
"""`tokenizer.ggml.token_type` of a special token."""

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def main() -> None:
    """Write config, generation config, weights and tokenizer into the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of all weights")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    arguments = parser.parse_args()
    out: Path = arguments.out
    reader = gguf.GGUFReader(bundled_model())
    header = {key: field.contents() for key, field in reader.fields.items()}
    out.mkdir(parents=True, exist_ok=True)
    tied = "output.weight" not in {tensor.name for tensor in reader.tensors}
    write_json(out / "config.json", config(header, tied) | {"dtype": arguments.dtype})
    ids = {name: header[f"tokenizer.ggml.{key}_token_id"] for name, key in (("bos", "bos"), ("eos", "eos"))}
    write_json(out / "generation_config.json", {f"{name}_token_id": value for name, value in ids.items()})
    write_json(out / "tokenizer.json", tokenizer(header))
    write_json(out / "tokenizer_config.json", tokenizer_config(header))
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    weights = {hf_name(tensor.name): torch.from_numpy(decoded(tensor, header)).to(dtype) for tensor in reader.tensors}
    safetensors.torch.save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Write a readable JSON file."""
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n")


def config(header: dict[str, Any], tied: bool) -> dict[str, Any]:
    """config.json, as transformers' LlamaConfig reads it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": header["llama.block_count"],
        "hidden_size": header["llama.embedding_length"],
        "intermediate_size": header["llama.feed_forward_length"],
        "num_attention_heads": header["llama.attention.head_count"],
        "num_key_value_heads": header["llama.attention.head_count_kv"],
        "vocab_size": header["llama.vocab_size"],
        "max_position_embeddings": header["llama.context_length"],
        "rms_norm_eps": header["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": header["llama.rope.freq_base"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": header["tokenizer.ggml.bos_token_id"],
        "eos_token_id": header["tokenizer.ggml.eos_token_id"],
        "pad_token_id": header["tokenizer.ggml.padding_token_id"],
    }


def tokenizer(header: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE whose digits are tokens of their own, as the model was trained."""
    if (header["tokenizer.ggml.model"], header["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise SystemExit(f"no rule for the pre-tokenizer `{header['tokenizer.ggml.pre']}`")
    tokens: list[str] = header["tokenizer.ggml.tokens"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **special(tokens[number])} for number in special_ids(header)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in header["tokenizer.ggml.merges"]],
        },
    }


def special_ids(header: dict[str, Any]) -> list[int]:
    """Ids of the control tokens."""
    return [number for number, kind in enumerate(header["tokenizer.ggml.token_type"]) if kind == CONTROL]


def special(content: str) -> dict[str, Any]:
    """An added token that stands for itself wherever it is found."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": content, **flags}


def tokenizer_config(header: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json: the roles of special tokens, and the chat template."""
    tokens = header["tokenizer.ggml.tokens"]
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": header["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": tokens[header[f"tokenizer.ggml.{key}_token_id"]] for role, key in roles.items()},
        "added_tokens_decoder": {str(number): special(tokens[number]) for number in special_ids(header)},
        "chat_template": header["tokenizer.chat_template"],
    }


def hf_name(name: str) -> str:
    """Transformers' name of a tensor."""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, layer, role, _ = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[role]}.weight"


def decoded(tensor: gguf.ReaderTensor, header: dict[str, Any]) -> npt.NDArray[np.float32]:
    """A tensor's float32 values in transformers' row order (llama.cpp interleaves the halves of rotated heads)."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    for role, key in heads.items():
        if f".{role}." in tensor.name:
            num_rows, num_columns = values.shape
            pairs = values.reshape(header[key], num_rows // header[key] // 2, 2, num_columns)
            values = pairs.swapaxes(1, 2).reshape(num_rows, num_columns)
    return np.ascontiguousarray(values)


if __name__ == "__main__":
    main()
