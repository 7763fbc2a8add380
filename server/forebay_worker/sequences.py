"""What the worker knows of each sequence, a column a fact and a row a slot. Sizes are in tokens.

Host columns are numpy; the last sampled token lies on the device, so that a decode needs no token value from the
plan. The worker owns the true length: `num_computed` grows when a step has succeeded and at no other time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from forebay_worker.plan import (
    Capabilities,
    NewSequence,
    PlanError,
    SequenceError,
    SequenceErrorKind,
    StepPlan,
)

I64 = npt.NDArray[np.int64]


class SequenceTable:
    """All slots of one worker.

    `known` tokens are those whose ids exist (given by the router or sampled here); `computed` ones have their KV in
    the cache. A *failed* sequence computes nothing more: its rows are answered with its error until it is released.
    """

    def __init__(self, capabilities: Capabilities, device: torch.device) -> None:
        """Reserve every column; memory for token ids is touched only as it is used."""
        slots = capabilities.max_sequences
        self.capabilities = capabilities
        # A router may give blocks for the tokens that it plans ahead.
        longest = capabilities.max_sequence_tokens + capabilities.max_run_ahead + 1
        self.taken = np.zeros(slots, np.bool_)
        self.epochs = np.full(slots, -1, np.int64)
        self.num_prompt = np.zeros(slots, np.int64)
        self.num_given = np.zeros(slots, np.int64)
        self.num_known = np.zeros(slots, np.int64)
        self.num_computed = np.zeros(slots, np.int64)
        self.num_blocks = np.zeros(slots, np.int64)
        self.block_tables = np.zeros((slots, -(-longest // capabilities.block_size)), np.int32)
        self.token_ids = np.zeros((slots, capabilities.max_sequence_tokens + 1), np.int32)
        self.last_token_S = torch.zeros(slots, dtype=torch.int64, device=device)
        self.num_changes = 0
        """Sequences that came, went or failed so far: as long as it stays, so does what slots hold of a request."""
        self.num_appends = 0
        """Plans so far that gave blocks to sequences."""

        self.temperature = np.zeros(slots, np.float32)
        self.top_k = np.zeros(slots, np.int64)
        self.top_p = np.ones(slots, np.float32)
        self.typical_p = np.ones(slots, np.float32)
        self.min_p = np.zeros(slots, np.float32)
        self.repetition_penalty = np.ones(slots, np.float32)
        self.frequency_penalty = np.zeros(slots, np.float32)
        self.presence_penalty = np.zeros(slots, np.float32)
        self.tgi_frequency_penalty = np.zeros(slots, np.float32)
        self.seed = np.zeros(slots, np.uint64)
        self.processed_logprobs = np.zeros(slots, np.bool_)
        self.num_top_logprobs = np.zeros(slots, np.int64)
        self.top_ties = np.zeros(slots, np.bool_)
        self.num_prompt_logprobs = np.zeros(slots, np.int64)
        self.min_new_tokens = np.zeros(slots, np.int64)
        # Options that few have: only the slots whose sequence has them.
        self.end_token_ids: dict[int, I64] = {}
        self.logit_bias: dict[int, tuple[I64, npt.NDArray[np.float32]]] = {}
        self.allowed_token_ids: dict[int, I64] = {}
        self.bad_words: dict[int, tuple[tuple[int, ...], ...]] = {}
        self.watermark: dict[int, tuple[float, float]] = {}
        self._sparse_columns: tuple[dict[int, Any], ...] = (
            self.end_token_ids,
            self.logit_bias,
            self.allowed_token_ids,
            self.bad_words,
            self.watermark,
        )

        self.failed = np.zeros(slots, np.bool_)
        self.errors: dict[int, SequenceError] = {}

    def apply(self, plan: StepPlan) -> None:
        """Take in a plan's releases, new sequences and block appends, in this order.

        A new sequence that this worker cannot do is failed from the start.
        Raises: PlanError on a slot that is not free or not taken, an epoch that is not the slot's, a block or token
        id out of range.
        """
        if plan.released_slots.size:
            self._release(plan.released_slots.astype(np.int64), plan.released_epochs)
        for new in plan.new_sequences:
            self._add(new)
        if plan.append_slots.size:
            self._append(plan.append_slots.astype(np.int64), plan.append_counts, plan.append_blocks)

    def check_tenants(self, slots: I64, epochs: npt.NDArray[np.uint32], what: str) -> None:
        """Raises: PlanError unless every (slot, epoch) is the tenant of its slot."""
        if slots.size and slots.max() >= self.taken.size:
            raise PlanError(f"{what} slot `{slots.max()}`, expected less than {self.taken.size}")
        wrong = ~self.taken[slots] | (self.epochs[slots] != epochs)
        if wrong.any():
            slot, epoch = int(slots[wrong][0]), int(epochs[wrong][0])
            holder = f"epoch `{self.epochs[slot]}`" if self.taken[slot] else "no sequence"
            raise PlanError(f"{what} slot `{slot}` epoch `{epoch}`, which holds {holder}")

    def _release(self, slots: I64, epochs: npt.NDArray[np.uint32]) -> None:
        self.check_tenants(slots, epochs, "release of")
        self.num_changes += 1
        self.taken[slots] = self.failed[slots] = False
        for slot in slots.tolist():
            self.errors.pop(slot, None)
            for column in self._sparse_columns:
                column.pop(slot, None)

    def _add(self, new: NewSequence) -> None:
        slot, known = new.slot, new.token_ids.size
        self._check_new(new)
        self.num_changes += 1
        self.taken[slot] = True
        self.epochs[slot] = new.epoch
        self.num_prompt[slot] = new.num_prompt_tokens
        self.num_given[slot] = self.num_known[slot] = known
        self.num_computed[slot] = new.num_computed_tokens
        self.num_blocks[slot] = new.block_ids.size
        self.block_tables[slot, : new.block_ids.size] = new.block_ids
        self.token_ids[slot, :known] = new.token_ids
        if new.unsupported is not None:
            self.fail(slot, SequenceErrorKind.UNSUPPORTED, new.unsupported)
        self._set_sampling(new)

    def _check_new(self, new: NewSequence) -> None:
        slot, name = new.slot, f"new sequence ({new.slot}, {new.epoch})"
        if slot >= self.taken.size:
            raise PlanError(f"{name}: slot `{slot}`, expected less than {self.taken.size}")
        if self.taken[slot]:
            raise PlanError(f"{name}: slot `{slot}` holds epoch `{self.epochs[slot]}`, release it first")
        if new.epoch <= self.epochs[slot]:
            raise PlanError(f"{name}: epoch `{new.epoch}`, expected more than `{self.epochs[slot]}`")
        if new.token_ids.size > self.capabilities.max_sequence_tokens:
            limit = self.capabilities.max_sequence_tokens
            raise PlanError(f"{name} has `{new.token_ids.size}` tokens, expected at most {limit}")
        if (highest := int(new.token_ids.max())) >= self.capabilities.vocab_size:
            raise PlanError(f"{name}: token id `{highest}`, expected less than {self.capabilities.vocab_size}")
        for option, token_id in new.sampling.named_ids():
            if token_id >= self.capabilities.vocab_size:
                limit = self.capabilities.vocab_size
                raise PlanError(f"{name}: token id `{token_id}` of {option}, expected less than {limit}")
        if new.block_ids.size > self.block_tables.shape[1]:
            raise PlanError(f"{name} has `{new.block_ids.size}` blocks, expected at most {self.block_tables.shape[1]}")
        self._check_blocks(new.block_ids, name)

    def _check_blocks(self, block_ids: npt.NDArray[np.uint32], what: str) -> None:
        if not block_ids.size:
            return
        if block_ids.min() == 0 or block_ids.max() >= self.capabilities.num_blocks:
            wrong = block_ids[(block_ids == 0) | (block_ids >= self.capabilities.num_blocks)][0]
            raise PlanError(f"{what}: block `{wrong}`, expected 1 to {self.capabilities.num_blocks - 1}")

    def _set_sampling(self, new: NewSequence) -> None:
        slot, sampling = new.slot, new.sampling
        self.temperature[slot] = sampling.temperature
        self.top_k[slot] = sampling.top_k
        self.top_p[slot] = sampling.top_p
        self.typical_p[slot] = sampling.typical_p
        self.min_p[slot] = sampling.min_p
        self.repetition_penalty[slot] = sampling.repetition_penalty
        self.frequency_penalty[slot] = sampling.frequency_penalty
        self.presence_penalty[slot] = sampling.presence_penalty
        self.tgi_frequency_penalty[slot] = sampling.tgi_frequency_penalty
        self.seed[slot] = sampling.seed
        self.processed_logprobs[slot] = sampling.processed_logprobs
        self.num_top_logprobs[slot] = sampling.num_top_logprobs
        self.top_ties[slot] = sampling.top_ties
        self.num_prompt_logprobs[slot] = sampling.num_prompt_logprobs
        self.min_new_tokens[slot] = sampling.min_new_tokens if sampling.end_token_ids else 0
        if self.min_new_tokens[slot]:
            self.end_token_ids[slot] = np.array(sampling.end_token_ids, np.int64)
        if sampling.logit_bias_ids:
            values = np.array(sampling.logit_bias_values, np.float32)
            self.logit_bias[slot] = np.array(sampling.logit_bias_ids, np.int64), values
        if sampling.allowed_token_ids:
            self.allowed_token_ids[slot] = np.array(sampling.allowed_token_ids, np.int64)
        if sampling.bad_words:
            self.bad_words[slot] = sampling.bad_words
        if sampling.watermark is not None:
            self.watermark[slot] = sampling.watermark

    def _append(self, slots: I64, counts: npt.NDArray[np.uint32], blocks: npt.NDArray[np.uint32]) -> None:
        if slots.max() >= self.taken.size or not self.taken[slots].all():
            raise PlanError(f"append to slots `{slots.tolist()}`, of which one holds no sequence")
        self._check_blocks(blocks, "append")
        self.num_appends += 1
        start = 0
        for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
            held = int(self.num_blocks[slot])
            if held + count > self.block_tables.shape[1]:
                limit = self.block_tables.shape[1]
                raise PlanError(f"append gives slot `{slot}` `{held + count}` blocks, expected at most {limit}")
            self.block_tables[slot, held : held + count] = blocks[start : start + count]
            self.num_blocks[slot] = held + count
            start += count

    def fail(self, slot: int, kind: SequenceErrorKind, message: str) -> SequenceError:
        """Mark the slot's sequence as failed: no later row of it computes anything. Returns: its error."""
        error = SequenceError(slot, int(self.epochs[slot]), kind, message)
        self.failed[slot] = True
        self.errors[slot] = error
        self.num_changes += 1
        return error

    def advance(self, slots: I64, ends: I64) -> None:
        """Record that the KV of each slot's sequence now reaches to `ends`."""
        self.num_computed[slots] = ends

    def extend(self, slots: I64, token_ids_R: torch.Tensor, host_ids: I64) -> None:
        """Record the token that each slot's sequence sampled; `host_ids` holds the same ids as `token_ids_R`."""
        self.last_token_S.index_copy_(0, torch.from_numpy(slots).to(self.last_token_S.device), token_ids_R)
        self.token_ids[slots, self.num_known[slots]] = host_ids
        self.num_known[slots] += 1
