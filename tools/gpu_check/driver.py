"""Plans for an executor, made as a router makes them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from forebay_worker.executor import Executor
from forebay_worker.plan import NewSequence, RowFlag, SamplingParams, StepPlan, StepResult

BLOCK_SIZE = 16


@dataclasses.dataclass
class Driver:
    """Plans for one executor, made as a router makes them; every sequence has all its blocks from the start."""

    executor: Executor
    step_id: int = 0
    epoch: int = 0
    rows: int = 0

    def prefill(self, prompts: Sequence[Sequence[int]], num_new: int, sampling: SamplingParams) -> list[list[int]]:
        """Start these sequences in place of all others, in as few steps as limits allow: the first id of each."""
        limit = self.executor.capabilities.max_plan_tokens
        released, self.rows = self.rows, len(prompts)
        self.epoch += 1
        ids: list[list[int]] = [[] for _ in prompts]
        blocks_each = -(-(max(map(len, prompts)) + num_new) // BLOCK_SIZE)
        for slot, prompt in enumerate(prompts):
            blocks = np.arange(1 + slot * blocks_each, 1 + (slot + 1) * blocks_each, dtype=np.uint32)
            tokens = np.array(prompt, np.uint32)
            new = NewSequence(slot, self.epoch, tokens, len(prompt), 0, blocks, sampling)
            for start in range(0, len(prompt), limit):
                size = min(limit, len(prompt) - start)
                is_last = start + size == len(prompt)
                result = self._step([slot], [size], [] if start else [new], is_last, num_decodes=0, released=released)
                released = 0
            ids[slot] += result.token_ids.tolist()
        return ids

    def decode(self) -> StepResult:
        """One token of every sequence."""
        return self._step(range(self.rows), [1] * self.rows, [], True, num_decodes=self.rows)

    def _step(
        self, slots: Sequence[int], sizes: list[int], new: list[NewSequence], samples: bool, *, num_decodes: int,
        released: int = 0,
    ) -> StepResult:  # fmt: skip
        flags = (RowFlag.SAMPLES | (RowFlag(0) if num_decodes else RowFlag.LAST_CHUNK)) if samples else RowFlag(0)
        none = np.empty(0, np.uint32)
        plan = StepPlan(
            step_id=self.step_id,
            released_slots=np.arange(released, dtype=np.uint32),
            released_epochs=np.full(released, self.epoch - 1, np.uint32),
            new_sequences=new,
            append_slots=none,
            append_counts=none,
            append_blocks=none,
            num_decodes=num_decodes,
            row_slots=np.array(slots, np.uint32),
            row_epochs=np.full(len(slots), self.epoch, np.uint32),
            row_num_tokens=np.array(sizes, np.uint32),
            row_flags=np.full(len(slots), flags, np.uint32),
        )
        self.step_id += 1
        result = self.executor.execute(plan)
        if result.errors or result.step_error:
            sys.exit(f"step {plan.step_id} failed: {result.errors or result.step_error}")
        return result
