"""Writes a random Llama as GGUF, and the same values as a float32 folder, with the gguf package as the judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import safetensors.numpy
import torch

from forebay_kernels.ops.quantize_blocks import quantize_blocks

NUM_LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2, 64, 128, 4, 2, 16, 101

ROTATED_HEADS = {"attn_q": HEADS, "attn_k": KV_HEADS}

Quantizer = Callable[[str], gguf.GGMLQuantizationType]


def write_tiny_gguf(
    folder: Path,
    type_of: Quantizer,
    *,
    tied: bool = False,
    rope_factors: bool = False,
    scale: int = 1,
    extra: dict[str, int] | None = None,
) -> tuple[Path, Path]:
    """(the .gguf file, a float32 safetensors folder of the values that it decodes to). `type_of`: tensor -> type.

    `scale` multiplies every width but the vocabulary: 4 gives rows of 256, as the K-types need.
    """
    path = folder / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_block_count, NUM_LAYERS),
        (writer.add_context_length, 128),
        (writer.add_embedding_length, HIDDEN * scale),
        (writer.add_feed_forward_length, INTERMEDIATE * scale),
        (writer.add_head_count, HEADS),
        (writer.add_head_count_kv, KV_HEADS),
        (writer.add_vocab_size, VOCAB),
    ):
        add(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    for key, number in (extra or {}).items():
        writer.add_uint32(key, number)
    decoded = {}
    rng = np.random.default_rng(0)
    for name, hf_name, shape in _tensors(tied, scale):
        values = rng.uniform(0.5, 1.5, shape) if len(shape) == 1 else rng.normal(0, 0.2 / scale**0.5, shape)
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else type_of(name)
        raw = quantized(values.astype(np.float32), kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
        decoded[hf_name] = _unpermuted(name, gguf.quants.dequantize(raw, kind).reshape(shape))
    if rope_factors:
        writer.add_tensor("rope_freqs.weight", _llama3_factors(HEAD_DIM * scale))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, _write_folder(folder / "float32", decoded, scale, tied=tied, llama3=rope_factors)


def split_gguf(path: Path, max_tensors: int, *, tensors_in_first: bool = True) -> list[Path]:
    """Cut a file without metadata arrays into parts of at most so many tensors, with the gguf package; their paths."""
    folder = path.parent / "parts"
    folder.mkdir()
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(
        folder / path.name, architecture, split_max_tensors=max_tensors, small_first_shard=not tensors_in_first
    )
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.iterdir())


def quantized(values: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """The package's own rounding where it has one, else ours; what the bytes mean, the package says in either case."""
    try:
        return gguf.quants.quantize(values, kind)
    except NotImplementedError:
        rows = torch.from_numpy(values).flatten(0, -2)
        return quantize_blocks(rows, kind.name).numpy().reshape(*values.shape[:-1], -1)


def _shapes(hidden: int, intermediate: int, head_dim: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        "attn_norm": ("input_layernorm", (hidden,)),
        "attn_q": ("self_attn.q_proj", (HEADS * head_dim, hidden)),
        "attn_k": ("self_attn.k_proj", (KV_HEADS * head_dim, hidden)),
        "attn_v": ("self_attn.v_proj", (KV_HEADS * head_dim, hidden)),
        "attn_output": ("self_attn.o_proj", (hidden, HEADS * head_dim)),
        "ffn_norm": ("post_attention_layernorm", (hidden,)),
        "ffn_gate": ("mlp.gate_proj", (intermediate, hidden)),
        "ffn_up": ("mlp.up_proj", (intermediate, hidden)),
        "ffn_down": ("mlp.down_proj", (hidden, intermediate)),
    }


def _tensors(tied: bool, scale: int) -> list[tuple[str, str, tuple[int, ...]]]:
    hidden, shapes = HIDDEN * scale, _shapes(HIDDEN * scale, INTERMEDIATE * scale, HEAD_DIM * scale)
    top = [("token_embd", "model.embed_tokens", (VOCAB, hidden)), ("output_norm", "model.norm", (hidden,))]
    top += [] if tied else [("output", "lm_head", (VOCAB, hidden))]
    layers = [
        (f"blk.{layer}.{name}", f"model.layers.{layer}.{hf_name}", shape)
        for layer in range(NUM_LAYERS)
        for name, (hf_name, shape) in shapes.items()
    ]
    return [(f"{name}.weight", f"{hf_name}.weight", shape) for name, hf_name, shape in top + layers]


def _unpermuted(name: str, values: np.ndarray) -> np.ndarray:
    for role, heads in ROTATED_HEADS.items():
        if f".{role}." in name:
            rows, columns = values.shape
            values = values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return np.ascontiguousarray(values, np.float32)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def _llama3_factors(head_dim: int) -> np.ndarray:
    """As llama.cpp's converter writes them (LlamaModel.generate_extra_tensors)."""
    old = LLAMA3["original_max_position_embeddings"]
    low, high, factor = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"], LLAMA3["factor"]
    factors = []
    for wavelength in 2 * np.pi * 10000.0 ** (np.arange(0, head_dim, 2) / head_dim):
        smooth = (old / wavelength - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        factors.append(1.0 if wavelength < old / high else factor if wavelength > old / low else between)
    return np.array(factors, np.float32)


def _write_folder(folder: Path, tensors: dict[str, np.ndarray], scale: int, *, tied: bool, llama3: bool) -> Path:
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "num_hidden_layers": NUM_LAYERS,
        "hidden_size": HIDDEN * scale,
        "intermediate_size": INTERMEDIATE * scale,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    }
    if llama3:
        config["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "llama3", **LLAMA3}
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder
