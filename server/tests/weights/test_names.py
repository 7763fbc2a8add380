"""Roles, row orders, and what a checkpoint remembers."""

from __future__ import annotations

import numpy as np
import pytest

from forebay_worker.weights.names import Checkpoint, WeightName, undo_adjacent_rotary
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
