"""Roles, row orders, and what a checkpoint remembers."""

from __future__ import annotations

import numpy as np
import pytest

from forebay_worker.weights.names import (
    Checkpoint,
    WeightName,
    divided_by_layer,
    merged_by_group,
    named,
    rows_of_heads,
    undo_adjacent_rotary,
)
from forebay_worker.weights.stored import F32, Q4_0, StoredTensor


class OneTensor:
    """A source with a single matrix of two heads of width 4, whose rows say where they lay."""

    def names(self):
        return ["blk.0.attn_q.weight", "extra"]

    def read(self, name):
        return StoredTensor(name, F32, 1, np.arange(8, dtype=np.float32).reshape(8, 1).view(np.uint8))


NAMES = {"query": WeightName("blk.{layer}.attn_q.weight", undo_adjacent_rotary(4)), "key": WeightName("blk.{layer}.k")}


def test_interleaved_heads_are_put_back_half_by_half():
    rows = Checkpoint(OneTensor(), NAMES).read("query", 0).data.view(np.float32)[:, 0]
    assert rows.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def order_of(arrange, num_rows=8):
    """The rows that an arrangement takes, in its order."""
    rows = np.arange(num_rows, dtype=np.float32).reshape(num_rows, 1)
    return arrange(StoredTensor("x", F32, 1, rows.view(np.uint8))).data.view(np.float32)[:, 0].tolist()


def test_of_heads_that_turn_in_part_only_that_part_is_put_back():
    assert order_of(undo_adjacent_rotary(8, rotary_dim=4)) == [0, 2, 1, 3, 4, 5, 6, 7]


def test_parts_of_a_matrix_that_is_merged_group_by_group_are_taken_from_every_group():
    names = merged_by_group("{layer}.qkv.weight", group_size=2, head_dim=1, has_bias=True)
    orders = {role: order_of(name.arrange) for role, name in names.items() if not role.endswith("bias")}
    assert orders == {"attention.query": [0, 1, 4, 5], "attention.key": [2, 6], "attention.value": [3, 7]}
    bias = StoredTensor("x", F32, 8, np.arange(8, dtype=np.float32).view(np.uint8)[None])
    assert names["attention.key.bias"].arrange(bias).data.view(np.float32).tolist() == [[2, 6]]
    assert names["attention.key.bias"].at(3) == "3.qkv.bias"


@pytest.mark.parametrize("arrange", [undo_adjacent_rotary(3), rows_of_heads(slice(1), 1, 3)])
def test_rows_that_are_no_whole_heads_are_refused(arrange):
    with pytest.raises(ValueError, match=r"tensor `x` has `8` rows, expected a multiple of `3`"):
        order_of(arrange)


def test_dense_layers_and_layers_of_experts_have_names_of_their_own():
    roles = ("mlp.gate", "mlp.up", "mlp.down", "experts.up", "norm")
    names = divided_by_layer(named({role: f"{{layer}}.{role}" for role in roles}), 4, [1])
    assert names["mlp.up"].all(4, 0) == ["1.mlp.up"]
    assert names["experts.up"].all(4, 2) == ["0.experts.up", "2.experts.up", "3.experts.up"]
    assert names["norm"].all(4, 0) == [f"{layer}.norm" for layer in range(4)]
    assert "mlp.up" not in divided_by_layer(names, 4, [])


def test_a_tensor_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"has no tensor `blk.3.k`"):
        Checkpoint(OneTensor(), NAMES).read("key", 3)


def test_what_was_not_read_is_remembered():
    checkpoint = Checkpoint(OneTensor(), NAMES)
    checkpoint.read("query", 0)
    assert checkpoint.unread() == ["extra"]


def test_columns_are_cut_between_blocks_and_rows_past_the_end_are_zero():
    data = np.arange(2 * 36, dtype=np.uint8).reshape(2, 36)
    tensor = StoredTensor("x", Q4_0, 64, data)
    assert np.array_equal(tensor.columns(32, 64).data, data[:, 18:])
    assert tensor.columns(32, 64).num_columns == 32
    padded = tensor.rows(1, 4)
    assert padded.num_rows == 3 and np.array_equal(padded.data[0], data[1]) and not padded.data[1:].any()
    with pytest.raises(AssertionError, match="cut a block of 32"):
        tensor.columns(16, 48)
