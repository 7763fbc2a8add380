"""Roles of tensors -> names in a checkpoint, and what a file format did to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.stored import StoredTensor

Arrangement = Callable[[StoredTensor], StoredTensor]
"""A tensor as it lies in the file -> the same, or a part of it, as layers want it."""

MLP_ROLES = ("mlp.gate", "mlp.up", "mlp.down")


@dataclasses.dataclass(frozen=True)
class WeightName:
    """Where a role's tensor lies; `{layer}` and `{expert}` in `template` stand for their numbers."""

    template: str
    arrange: Arrangement | None = None
    num_stacked: int = 0
    """Experts whose matrices lie one below the other in this tensor; 0: each is a tensor of its own."""
    layers: frozenset[int] | None = None
    """The layers that have it; None: all, or it lies outside the layers."""

    def at(self, layer: int | None, expert: int | None = None) -> str:
        """The tensor's name in one layer, or outside the layers."""
        return self.template.format(layer=layer, expert=expert)

    def all(self, num_layers: int, num_experts: int) -> list[str]:
        """The names that the template stands for."""
        layers = self.among(num_layers) if "{layer}" in self.template else range(1)
        experts = range(num_experts) if "{expert}" in self.template else range(1)
        return [self.at(layer, expert) for layer in layers for expert in experts]

    def among(self, num_layers: int) -> list[int]:
        """Of so many layers, those that have it."""
        return [layer for layer in range(num_layers) if self.layers is None or layer in self.layers]


def named(templates: Mapping[str, str]) -> dict[str, WeightName]:
    """Names of tensors that lie in the file as layers want them."""
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


def biases(names: Mapping[str, WeightName], *roles: str) -> dict[str, WeightName]:
    """Names of the biases of linear layers, which lie beside their weights."""
    return named({f"{role}.bias": names[role].template.removesuffix("weight") + "bias" for role in roles})


def without(names: Mapping[str, WeightName], *roles: str) -> dict[str, WeightName]:
    """Names of a model that lacks some roles."""
    return {role: name for role, name in names.items() if role not in roles}


def merged(
    template: str,
    num_rows: Mapping[str, int],
    part_of: Callable[[int, int], Arrangement] | None = None,
    *,
    has_bias: bool = False,
) -> dict[str, WeightName]:
    """Names of the parts, role by role, of a matrix that merges several; `part_of`: `rows`, unless told otherwise."""
    names, start = {}, 0
    for role, count in num_rows.items():
        names[role] = WeightName(template, (part_of or rows)(start, start + count))
        if has_bias:
            bias = template.removesuffix("weight") + "bias"
            names[f"{role}.bias"] = WeightName(bias, elements(start, start + count))
        start += count
    return names


def merged_by_group(template: str, group_size: int, head_dim: int, *, has_bias: bool = False) -> dict[str, WeightName]:
    """Names of the parts of a matrix of groups: `group_size` query heads, then their key head, their value head."""
    names: dict[str, WeightName] = {}
    heads = {
        "attention.query": slice(0, group_size),
        "attention.key": slice(group_size, group_size + 1),
        "attention.value": slice(group_size + 1, group_size + 2),
    }
    for role, own in heads.items():
        arrange = rows_of_heads(own, group_size + 2, head_dim)
        names[role] = WeightName(template, arrange)
        if has_bias:
            names[f"{role}.bias"] = WeightName(template.removesuffix("weight") + "bias", of_vector(arrange))
    return names


def divided_by_layer(
    names: Mapping[str, WeightName], num_layers: int, dense_layers: Collection[int]
) -> dict[str, WeightName]:
    """Names of a model of experts: `dense_layers` alone have a feed-forward layer without them."""
    dense = frozenset(dense_layers)
    sparse = frozenset(range(num_layers)) - dense
    of_dense = {role: dataclasses.replace(names[role], layers=dense) for role in MLP_ROLES if dense}
    return {
        role: dataclasses.replace(name, layers=sparse) if role.startswith(("experts.", "shared_expert.")) else name
        for role, name in names.items()
        if role not in MLP_ROLES
    } | of_dense


def undo_adjacent_rotary(head_dim: int, rotary_dim: int | None = None) -> Arrangement:
    """Rows of a query or key weight whose heads were interleaved for rotation of adjacent pairs, put in our order.

    llama.cpp stores row 2i + j of a head where transformers has row j * head_dim / 2 + i; of a head that turns in part,
    this goes for its first `rotary_dim` rows. Whole rows move, so quantized blocks stay whole.
    """

    def arrange(tensor: StoredTensor) -> StoredTensor:
        order_HD = _numbered_rows(tensor, head_dim)
        turning_HR = order_HD[:, :rotary_dim]
        pairs_HR2 = turning_HR.reshape(len(order_HD), -1, 2)
        order_HD[:, : turning_HR.shape[1]] = pairs_HR2.swapaxes(1, 2).reshape(turning_HR.shape)
        return tensor.reorder_rows(order_HD.reshape(-1))

    return arrange


def with_adjacent_rotary(
    names: Mapping[str, WeightName], head_dim: int, rotary_dim: int | None = None
) -> dict[str, WeightName]:
    """Names of a model whose query and key heads rotate adjacent pairs (of the first `rotary_dim`), biases included."""
    undo = undo_adjacent_rotary(head_dim, rotary_dim)
    changed = dict(names)
    for role in ("attention.query", "attention.key"):
        changed[role] = dataclasses.replace(names[role], arrange=undo)
        if f"{role}.bias" in names:
            changed[f"{role}.bias"] = dataclasses.replace(names[f"{role}.bias"], arrange=of_vector(undo))
    return changed


def rows(start: int, stop: int) -> Arrangement:
    """One part of a matrix that merges several."""
    return lambda tensor: tensor.rows(start, stop)


def rows_of_heads(heads: slice, group_size: int, head_dim: int) -> Arrangement:
    """Of a matrix of groups of so many heads, some heads of each group."""

    def arrange(tensor: StoredTensor) -> StoredTensor:
        order = _numbered_rows(tensor, group_size * head_dim).reshape(-1, group_size, head_dim)
        return tensor.reorder_rows(order[:, heads].reshape(-1))

    return arrange


def _numbered_rows(tensor: StoredTensor, unit: int) -> npt.NDArray[np.int64]:
    """Numbers of the rows, `unit` of them in each row of the result."""
    if tensor.num_rows % unit:
        raise ModelRefusedError(f"tensor `{tensor.name}` has `{tensor.num_rows}` rows, expected a multiple of `{unit}`")
    return np.arange(tensor.num_rows).reshape(-1, unit)


def elements(start: int, stop: int) -> Arrangement:
    """One part of a vector that merges several."""
    return lambda tensor: tensor.columns(start, stop)


def of_vector(arrange: Arrangement) -> Arrangement:
    """What `arrange` does to the rows of a matrix, done to the elements of a vector."""
    return lambda tensor: arrange(tensor.transposed()).transposed()


def transposed(tensor: StoredTensor) -> StoredTensor:
    """A matrix that is stored as inputs by outputs."""
    return tensor.transposed()


def transposed_rows(start: int, stop: int) -> Arrangement:
    """One part of such a matrix."""
    return lambda tensor: tensor.transposed().rows(start, stop)


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

    def describes(self, role: str) -> bool:
        """Whether the description has a tensor for a role that not every model has."""
        return role in self._names

    def read(self, role: str, layer: int | None = None, expert: int | None = None) -> StoredTensor:
        """The tensor of a role, in our order. Raises: ModelRefusedError if the checkpoint lacks it."""
        entry = self._names[role]
        name = entry.at(layer, expert)
        if name not in self._present:
            raise ModelRefusedError(f"the checkpoint has no tensor `{name}`, which its architecture needs")
        self._read.add(name)
        tensor = self._source.read(name)
        if entry.num_stacked and expert is not None:
            tensor = _of_expert(tensor, entry.num_stacked, expert)
        return entry.arrange(tensor) if entry.arrange else tensor

    def unread(self) -> list[str]:
        """Names of tensors that nothing has read."""
        return sorted(self._present - self._read)


def _of_expert(tensor: StoredTensor, num_experts: int, expert: int) -> StoredTensor:
    num_rows, rest = divmod(tensor.num_rows, num_experts)
    if rest:
        raise ModelRefusedError(
            f"tensor `{tensor.name}` has `{tensor.num_rows}` rows, expected as many for each of `{num_experts}` experts"
        )
    return tensor.rows(expert * num_rows, (expert + 1) * num_rows)
