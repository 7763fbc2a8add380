"""Batches of decodes that go on from the last ones, against batches that are made anew."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from forebay_worker.batch import Batch, BatchBuilder, build_batch
from forebay_worker.plan import PlanError, RowFlag, SequenceErrorKind, StepPlan
from forebay_worker.sequences import SequenceTable

from .toy import CAPABILITIES, LAST, Plans, new_sequence

S = RowFlag.SAMPLES


def plain(value: Any) -> Any:
    """Everything that a batch holds, as what `==` compares."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value


class Sequences:
    """A table whose sequences grow by a made-up token a step; each plan's batch is made both ways."""

    def __init__(self) -> None:
        self.table, self.plans = SequenceTable(CAPABILITIES, torch.device("cpu")), Plans()
        self.builder = BatchBuilder(self.table)

    def step(self, **rows: Any) -> Batch:
        plan: StepPlan = self.plans(**rows)
        self.table.apply(plan)
        batch = self.builder.build(plan)
        assert plain(batch) == plain(build_batch(plan, self.table))
        self.table.advance(batch.slots_S, batch.ends_S)
        ids = (batch.ends_S * 7 + batch.slots_S) % CAPABILITIES.vocab_size
        sampled = np.isin(batch.slots_S, batch.sample_slots_R)
        self.table.extend(batch.sample_slots_R, torch.from_numpy(ids[sampled]), ids[sampled])
        return batch


def test_decodes_that_go_on_give_the_batches_that_their_plans_give_alone():
    sequences = Sequences()
    first, second = new_sequence(3, [5, 6, 7], [9]), new_sequence(1, [8, 9], [2, 3])
    sequences.step(new=[first, second], chunks=[(3, 1, 3, LAST), (1, 1, 2, LAST)])
    both = [(1, 1, S), (3, 1, S | RowFlag.LOGPROBS)]
    for appends in ({3: [4, 11]}, {}, {}, {1: [5], 3: [6]}, {}, {}, {}):
        batch = sequences.step(decodes=both, appends=appends)
    assert batch.ends_S.tolist() == [9, 10]
    # Another one joins, and one leaves its slot to a third.
    sequences.step(new=[new_sequence(0, [1], [7, 12])], decodes=both, chunks=[(0, 1, 1, LAST)])
    sequences.step(decodes=[(0, 1, S), *both])
    newcomer = new_sequence(1, [4], [8], epoch=2)
    sequences.step(released=[(1, 1)], new=[newcomer], decodes=[(0, 1, S), both[1]], chunks=[(1, 2, 1, LAST)])
    for _ in range(2):
        sequences.step(decodes=[(0, 1, S), (1, 2, S)])


def test_a_sequence_that_failed_is_left_out_of_the_next_batch():
    sequences = Sequences()
    sequences.step(
        new=[new_sequence(0, [5], [1]), new_sequence(1, [6], [2])], chunks=[(0, 1, 1, LAST), (1, 1, 1, LAST)]
    )
    both = [(0, 1, S), (1, 1, S)]
    sequences.step(decodes=both)
    sequences.table.fail(0, SequenceErrorKind.NUMERICAL, "as a test wants it")
    batch = sequences.step(decodes=both)
    assert batch.slots_S.tolist() == [1]
    assert [error.slot for error in batch.errors] == [0]


def test_a_decode_beyond_its_blocks_is_refused_however_many_went_before():
    sequences = Sequences()
    sequences.step(new=[new_sequence(0, [5], [1])], chunks=[(0, 1, 1, LAST)])
    for _ in range(3):
        sequences.step(decodes=[(0, 1, S)])
    with pytest.raises(PlanError, match="grows to `5` tokens, its blocks and limits allow 4"):
        sequences.step(decodes=[(0, 1, S)])
