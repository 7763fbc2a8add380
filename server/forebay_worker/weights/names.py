"""Roles of tensors -> names in a checkpoint, and what a file format did to their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.stored import StoredTensor

RowOrder = Callable[[int], npt.NDArray[np.int64]]
"""Number of rows -> for each row as we want it, the row where it lies in the file."""


@dataclasses.dataclass(frozen=True)
class WeightName:
    """Where a role's tensor lies; `{layer}` in `template` stands for the layer's number."""

    template: str
    row_order: RowOrder | None = None

    def at(self, layer: int | None) -> str:
        """The tensor's name in one layer, or outside the layers."""
        return self.template.format(layer=layer)


def named(templates: Mapping[str, str]) -> dict[str, WeightName]:
    """Names without a row order."""
    return {role: WeightName(template) for role, template in templates.items()}


def hf_decoder_names() -> dict[str, WeightName]:
    """The names that transformers gives a decoder of the Llama shape; most families share them."""
    layer = "model.layers.{layer}."
    return named(
        {
            "embedding": "model.embed_tokens.weight",
            "attention.norm": layer + "input_layernorm.weight",
            "attention.query": layer + "self_attn.q_proj.weight",
            "attention.key": layer + "self_attn.k_proj.weight",
            "attention.value": layer + "self_attn.v_proj.weight",
            "attention.output": layer + "self_attn.o_proj.weight",
            "mlp.norm": layer + "post_attention_layernorm.weight",
            "mlp.gate": layer + "mlp.gate_proj.weight",
            "mlp.up": layer + "mlp.up_proj.weight",
            "mlp.down": layer + "mlp.down_proj.weight",
            "norm": "model.norm.weight",
            "head": "lm_head.weight",
        }
    )


def gguf_decoder_names() -> dict[str, WeightName]:
    """The names that llama.cpp gives the same tensors."""
    layer = "blk.{layer}."
    return named(
        {
            "embedding": "token_embd.weight",
            "attention.norm": layer + "attn_norm.weight",
            "attention.query": layer + "attn_q.weight",
            "attention.key": layer + "attn_k.weight",
            "attention.value": layer + "attn_v.weight",
            "attention.output": layer + "attn_output.weight",
            "mlp.norm": layer + "ffn_norm.weight",
            "mlp.gate": layer + "ffn_gate.weight",
            "mlp.up": layer + "ffn_up.weight",
            "mlp.down": layer + "ffn_down.weight",
            "norm": "output_norm.weight",
            "head": "output.weight",
            "rope.factors": "rope_freqs.weight",
        }
    )


def undo_adjacent_rotary(head_dim: int) -> RowOrder:
    """Row order of a query or key weight whose heads were interleaved for rotation of adjacent pairs.

    llama.cpp stores row 2i + j of a head where transformers has row j * head_dim / 2 + i. Whole rows move, so
    quantized blocks stay whole.
    """

    def order(num_rows: int) -> npt.NDArray[np.int64]:
        return np.arange(num_rows).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)

    return order


class TensorSource(Protocol):
    """A weight file or folder."""

    def names(self) -> list[str]:
        """Every tensor's name."""

    def read(self, name: str) -> StoredTensor:
        """A view of one tensor. Raises: KeyError; ModelRefusedError for an unsupported type."""


class Checkpoint:
    """A source read by role, which remembers what was asked for, so that nothing in a file goes unnoticed."""

    def __init__(self, source: TensorSource, names: Mapping[str, WeightName]) -> None:
        self._source = source
        self._names = names
        self._present = frozenset(source.names())
        self._read: set[str] = set()

    def read(self, role: str, layer: int | None = None) -> StoredTensor:
        """The tensor of a role, rows in our order. Raises: ModelRefusedError if the checkpoint lacks it."""
        entry = self._names[role]
        name = entry.at(layer)
        if name not in self._present:
            raise ModelRefusedError(f"the checkpoint has no tensor `{name}`, which its architecture needs")
        self._read.add(name)
        tensor = self._source.read(name)
        return tensor.reorder_rows(entry.row_order(tensor.num_rows)) if entry.row_order else tensor

    def unread(self) -> list[str]:
        """Names of tensors that nothing has read."""
        return sorted(self._present - self._read)
