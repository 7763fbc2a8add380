"""A seeded random Llama as a folder of safetensors, made on the spot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclasses.dataclass(frozen=True)
class Shape:
    """A random model, and how it is exercised."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    prompt_tokens: int
    """Of the prompt whose logits are compared."""
    prefill_tokens: int
    decode_rows: tuple[int, ...]
    decode_steps: int

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
        }


SHAPES = {
    "1b": Shape(16, 2048, 8192, 32, 8, 128256, 200, 2048, (1, 8, 32, 128), 64),
    "tiny": Shape(2, 64, 96, 4, 2, 512, 40, 128, (1, 8), 6),
}


def write_model(folder: Path, shape: Shape, device: torch.device) -> None:
    """config.json and model.safetensors, bfloat16; drawn on the device, for a CPU draws a billion numbers slowly."""
    (folder / "config.json").write_text(json.dumps(shape.config))
    tensors = dict(_tensor_shapes(shape))
    header, end = {}, 0
    for name, sizes in tensors.items():
        start, end = end, end + 2 * int(np.prod(sizes))
        header[name] = {"dtype": "BF16", "shape": list(sizes), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    generator = torch.Generator(device).manual_seed(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for sizes in tensors.values():
            values = torch.randn(sizes, generator=generator, device=device)
            # Norms about 1; matrices so that products keep the size of their inputs.
            values = 1 + 0.1 * values if len(sizes) == 1 else values * sizes[1] ** -0.5
            file.write(values.bfloat16().cpu().contiguous().view(torch.uint8).numpy().tobytes())


def _tensor_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, kv_width = shape.hidden, shape.hidden // shape.heads * shape.kv_heads
    yield "model.embed_tokens.weight", (shape.vocab, hidden)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "self_attn.q_proj.weight", (hidden, hidden)
        yield prefix + "self_attn.k_proj.weight", (kv_width, hidden)
        yield prefix + "self_attn.v_proj.weight", (kv_width, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, hidden)
        yield prefix + "mlp.gate_proj.weight", (shape.intermediate, hidden)
        yield prefix + "mlp.up_proj.weight", (shape.intermediate, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, shape.intermediate)
    yield "model.norm.weight", (hidden,)


def random_ids(shape: Shape, num_tokens: int, seed: int) -> list[int]:
    """Token ids from a seed."""
    ids: list[int] = torch.randint(
        0, shape.vocab, (num_tokens,), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return ids
