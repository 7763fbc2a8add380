"""A plan's rows as tensors: what the decoder computes, and which of its outputs the sampler reads.

S = rows (sequences) that compute, T = their tokens, R = rows that sample. All arrays are made with numpy, whole.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from forebay_worker.attention.backend import AttentionMetadata
from forebay_worker.device import upload
from forebay_worker.plan import PlanError, RowFlag, SequenceError, StepPlan
from forebay_worker.sequences import I64, SequenceTable

_NOT_BUILT = RowFlag.POOLED_OUTPUT
# Plain numbers: an enum's operators cost more than those of the arrays that they meet.
_SAMPLES, _LOGPROBS, _LAST_CHUNK = int(RowFlag.SAMPLES), int(RowFlag.LOGPROBS), int(RowFlag.LAST_CHUNK)
_PROMPT_LOGPROBS, _NOT_BUILT_BITS = int(RowFlag.PROMPT_LOGPROBS), int(_NOT_BUILT)
_NEEDS_MASK = int(RowFlag.NEEDS_MASK)


@dataclasses.dataclass(frozen=True)
class PromptSpan:
    """Hidden states whose logits give one sequence's prompt log-probabilities."""

    slot: int
    first_token: int
    """Index into T of the state that predicts `targets[0]`."""
    first_position: int
    """Of `targets[0]` in the sequence."""
    targets: npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class Batch:
    """One forward pass. Indices into T and S are host arrays; tensors lie on the device."""

    slots_S: I64
    ends_S: I64
    """Lengths after the step."""
    input_ids_T: torch.Tensor
    positions_T: torch.Tensor
    metadata: AttentionMetadata
    sample_slots_R: I64
    sample_tokens_R: I64
    """Index into T of the state that each sampling row reads."""
    wants_logprobs_R: npt.NDArray[np.bool_]
    needs_mask_R: npt.NDArray[np.bool_]
    """A grammar limits the choice."""
    prompt_spans: list[PromptSpan]
    errors: list[SequenceError]
    """Of failed sequences that have a row here."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return int(self.input_ids_T.shape[0])


class BatchBuilder:
    """Makes batches of one worker's plans.

    Most plans have the rows of the one before, each a token further. Then only lengths and places are made anew, which
    takes a quarter of the time.
    """

    def __init__(self, table: SequenceTable) -> None:
        self._table = table
        self._last: tuple[_Rows, Batch, int] | None = None
        """The last plan's rows and batch if they can go on so, and the table's appends at that time."""

    def build(self, plan: StepPlan) -> Batch:
        """Check the rows of a plan that the table has applied, and turn them into tensors.

        Failed sequences are left out. Raises: PlanError on what no right router sends.
        """
        rows = _Rows.of(plan, self._table)
        batch = self._next_decodes(rows)
        if batch is None:
            check_rows(plan, self._table)
            batch = build_batch(plan, self._table)
        goes_on = plan.num_decodes == plan.row_slots.size and not batch.errors and not batch.prompt_spans
        self._last = (rows, batch, self._table.num_appends) if goes_on else None
        return batch

    def _next_decodes(self, rows: _Rows) -> Batch | None:
        """The last batch, all of it decodes, a token further; None if the plan has other rows, or cannot go on so."""
        if self._last is None or self._last[0] != rows:
            return None
        _, last, num_appends = self._last
        table, slots_S = self._table, last.slots_S
        starts_S = table.num_computed[slots_S]
        ends_S = starts_S + 1
        if not ((ends_S == table.num_known[slots_S]) & (ends_S <= _room(table, slots_S))).all():
            return None
        num_blocks = _num_blocks(table, ends_S)
        block_tables_SB = last.metadata.block_tables_SB
        if num_appends != table.num_appends or num_blocks != block_tables_SB.shape[1]:
            block_tables_SB = _block_tables(table, slots_S, num_blocks)
        metadata = AttentionMetadata(
            block_tables_SB=block_tables_SB,
            context_lens_S=_tensor(table, ends_S.astype(np.int32)),
            cu_seqlens_q_S1=last.metadata.cu_seqlens_q_S1,
            slot_mapping_T=_tensor(table, _slot_mapping(table, slots_S, starts_S)),
            block_size=last.metadata.block_size,
            host_query_lens_S=last.metadata.host_query_lens_S,
            host_context_lens_S=ends_S,
        )
        return Batch(
            slots_S=slots_S,
            ends_S=ends_S,
            input_ids_T=_input_ids(table, slots_S, starts_S, slots_S.size),
            positions_T=_tensor(table, starts_S),
            metadata=metadata,
            sample_slots_R=last.sample_slots_R,
            sample_tokens_R=last.sample_tokens_R,
            wants_logprobs_R=last.wants_logprobs_R,
            needs_mask_R=last.needs_mask_R,
            prompt_spans=[],
            errors=[],
        )


class _Rows(NamedTuple):
    """Which rows a plan has, and the tenants of its slots."""

    num_changes: int
    num_decodes: int
    slots: bytes
    epochs: bytes
    num_tokens: bytes
    flags: bytes

    @staticmethod
    def of(plan: StepPlan, table: SequenceTable) -> _Rows:
        columns = plan.row_slots, plan.row_epochs, plan.row_num_tokens, plan.row_flags
        return _Rows(table.num_changes, plan.num_decodes, *(column.tobytes() for column in columns))


def check_rows(plan: StepPlan, table: SequenceTable) -> None:
    """Refuse rows that no right router can send. Raises: PlanError naming slot, value and limit."""
    slots = plan.row_slots.astype(np.int64)
    if not slots.size:
        raise PlanError("the plan has no row, expected at least one")
    table.check_tenants(slots, plan.row_epochs, "row of")
    decodes = slots[: plan.num_decodes]
    # Each look at an array costs about a microsecond: ascending slots differ, so that only chunks need be compared.
    is_ascending = bool((decodes[1:] > decodes[:-1]).all())
    if (decodes.size < slots.size or not is_ascending) and np.unique(slots).size != slots.size:
        raise PlanError("a sequence has two rows, expected one")
    if not is_ascending:
        raise PlanError("the decodes are not by ascending slot")
    if not plan.row_num_tokens.all():
        raise PlanError("a row has no token, expected at least one")
    if plan.row_num_tokens[: plan.num_decodes].max(initial=1) > 1:
        raise PlanError("a decode has more than one token: this worker has no drafts")
    limit = table.capabilities.max_plan_tokens
    if (total := int(plan.row_num_tokens.sum())) > limit:
        raise PlanError(f"the plan has `{total}` tokens, expected at most {limit}")


def build_batch(plan: StepPlan, table: SequenceTable) -> Batch:
    """Turn the rows of a plan, already checked by `check_rows`, into tensors; failed sequences are left out.

    Raises: PlanError where a row does not agree with what its sequence holds.
    """
    slots_S, num_tokens_S, flags_S = plan.row_slots.astype(np.int64), plan.row_num_tokens, plan.row_flags
    num_decodes, errors = plan.num_decodes, []
    if table.errors:
        computes = ~table.failed[slots_S]
        errors = [table.errors[slot] for slot in slots_S[~computes].tolist()]
        num_decodes = int(np.count_nonzero(computes[:num_decodes]))
        slots_S, num_tokens_S, flags_S = slots_S[computes], num_tokens_S[computes], flags_S[computes]
    num_tokens_S = num_tokens_S.astype(np.int64)
    starts_S = table.num_computed[slots_S]
    ends_S = starts_S + num_tokens_S
    _check_lengths(table, slots_S, ends_S, num_decodes)
    _check_flags(table, slots_S, ends_S, flags_S, num_decodes)

    cu_seqlens_S1 = np.zeros(slots_S.size + 1, np.int64)
    np.cumsum(num_tokens_S, out=cu_seqlens_S1[1:])
    slots_T, positions_T = slots_S, starts_S
    if num_decodes < slots_S.size:
        slots_T = np.repeat(slots_S, num_tokens_S)
        positions_T = np.arange(slots_T.size, dtype=np.int64) + np.repeat(starts_S - cu_seqlens_S1[:-1], num_tokens_S)
    samples = (flags_S & _SAMPLES) != 0
    return Batch(
        slots_S=slots_S,
        ends_S=ends_S,
        input_ids_T=_input_ids(table, slots_T, positions_T, num_decodes),
        positions_T=_tensor(table, positions_T),
        metadata=_metadata(table, slots_S, ends_S, cu_seqlens_S1, _slot_mapping(table, slots_T, positions_T)),
        sample_slots_R=slots_S[samples],
        sample_tokens_R=cu_seqlens_S1[1:][samples] - 1,
        wants_logprobs_R=(flags_S[samples] & _LOGPROBS) != 0,
        needs_mask_R=(flags_S[samples] & _NEEDS_MASK) != 0,
        prompt_spans=_prompt_spans(table, slots_S, starts_S, cu_seqlens_S1, flags_S),
        errors=errors,
    )


def _check_lengths(table: SequenceTable, slots_S: I64, ends_S: I64, num_decodes: int) -> None:
    """A decode computes the one sampled token whose KV is missing; a chunk computes ids that the router gave."""
    bad_S = ends_S > table.num_given[slots_S]
    # So far true where a decode computes a sampled token, as it must.
    is_right = bad_S[:num_decodes] & (ends_S[:num_decodes] == table.num_known[slots_S[:num_decodes]])
    bad_S[:num_decodes] = ~is_right
    if bad_S.any():
        row = int(np.flatnonzero(bad_S)[0])
        slot, kind = int(slots_S[row]), "decode" if row < num_decodes else "chunk"
        raise PlanError(
            f"{kind} of slot `{slot}` up to token `{ends_S[row]}`: `{table.num_computed[slot]}` are computed, "
            f"`{table.num_known[slot]}` known, `{table.num_given[slot]}` of them given"
        )
    room_S = _room(table, slots_S)
    if (ends_S > room_S).any():
        row = int(np.flatnonzero(ends_S > room_S)[0])
        raise PlanError(
            f"slot `{slots_S[row]}` grows to `{ends_S[row]}` tokens, its blocks and limits allow {room_S[row]}"
        )


def _room(table: SequenceTable, slots_S: I64) -> I64:
    """How long each sequence may become with the blocks that it has."""
    capabilities = table.capabilities
    return np.minimum(table.num_blocks[slots_S] * capabilities.block_size, capabilities.max_sequence_tokens)


def _check_flags(
    table: SequenceTable, slots_S: I64, ends_S: I64, flags_S: npt.NDArray[np.uint32], num_decodes: int
) -> None:
    """Flags are the router's word; they are compared with the lengths only to find a broken router early."""
    if (flags_S & _NOT_BUILT_BITS).any():
        raise PlanError(f"a row asks for {_NOT_BUILT.name}, which this worker's features do not name")
    last_S = ends_S == table.num_known[slots_S]
    if (((flags_S & _SAMPLES) != 0) & ~last_S).any():
        raise PlanError("a row samples that does not hold its sequence's last known token")
    if num_decodes < slots_S.size and (((flags_S & _LAST_CHUNK) != 0) != last_S)[num_decodes:].any():
        raise PlanError("a chunk's LAST_CHUNK flag does not agree with its sequence's length")


def _input_ids(table: SequenceTable, slots_T: I64, positions_T: I64, num_decodes: int) -> torch.Tensor:
    """Decodes read the device's last sampled token, chunks the ids that the router gave."""
    decoded = table.last_token_S.index_select(0, _tensor(table, slots_T[:num_decodes]))
    if num_decodes == slots_T.size:
        return decoded
    given = table.token_ids[slots_T[num_decodes:], positions_T[num_decodes:]].astype(np.int64)
    return torch.cat((decoded, _tensor(table, given))) if num_decodes else _tensor(table, given)


def _slot_mapping(table: SequenceTable, slots_T: I64, positions_T: I64) -> I64:
    """Where in the cache each token's KV goes: block id x block size + offset."""
    block_size = table.capabilities.block_size
    blocks_T, offsets_T = np.divmod(positions_T, block_size)
    return table.block_tables[slots_T, blocks_T].astype(np.int64) * block_size + offsets_T


def _metadata(
    table: SequenceTable, slots_S: I64, ends_S: I64, cu_seqlens_S1: I64, slot_mapping_T: I64
) -> AttentionMetadata:
    return AttentionMetadata(
        block_tables_SB=_block_tables(table, slots_S, _num_blocks(table, ends_S)),
        context_lens_S=_tensor(table, ends_S.astype(np.int32)),
        cu_seqlens_q_S1=_tensor(table, cu_seqlens_S1.astype(np.int32)),
        slot_mapping_T=_tensor(table, slot_mapping_T),
        block_size=table.capabilities.block_size,
        host_query_lens_S=np.diff(cu_seqlens_S1),
        host_context_lens_S=ends_S,
    )


def _num_blocks(table: SequenceTable, ends_S: I64) -> int:
    """Blocks of the longest sequence."""
    return -(-int(ends_S.max(initial=0)) // table.capabilities.block_size)


def _block_tables(table: SequenceTable, slots_S: I64, num_blocks: int) -> torch.Tensor:
    return _tensor(table, np.ascontiguousarray(table.block_tables[slots_S, :num_blocks]))


def _prompt_spans(
    table: SequenceTable, slots_S: I64, starts_S: I64, cu_seqlens_S1: I64, flags_S: npt.NDArray[np.uint32]
) -> list[PromptSpan]:
    """The state at position p predicts the token at p + 1, so long as that one is still prompt."""
    spans = []
    for row in (flags_S & _PROMPT_LOGPROBS).nonzero()[0].tolist():
        slot, start, first = int(slots_S[row]), int(starts_S[row]), int(cu_seqlens_S1[row])
        stop = min(start + int(cu_seqlens_S1[row + 1]) - first, int(table.num_prompt[slot]) - 1)
        if stop > start:
            spans.append(PromptSpan(slot, first, start + 1, table.token_ids[slot, start + 1 : stop + 1]))
    return spans


def _tensor(table: SequenceTable, array: npt.NDArray[np.generic]) -> torch.Tensor:
    return upload(array, table.last_token_S.device)
