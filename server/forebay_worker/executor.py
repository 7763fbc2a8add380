"""The worker's main path: `execute(plan)` applies a plan, computes its rows, samples, and answers.

Runs on the main thread alone. Holds no policy: what runs, waits or ends is the router's to say.
S = rows that compute, T = their tokens, D = model width, R = rows that sample, V = vocabulary.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from forebay_worker.batch import Batch, BatchBuilder, PromptSpan
from forebay_worker.grammar.constraints import Constraints
from forebay_worker.grammar.store import GrammarStore
from forebay_worker.plan import (
    U32,
    Capabilities,
    PromptLogprobs,
    SequenceError,
    SequenceErrorKind,
    StepError,
    StepErrorKind,
    StepPlan,
    StepResult,
    Timings,
)
from forebay_worker.sampling.logprobs import Logprobs, logprobs_of, ranks_of
from forebay_worker.sampling.rows import SamplingRows
from forebay_worker.sampling.sampler import NOTHING_LEFT, NUMERICAL_FAILURE, sample
from forebay_worker.sequences import I64, SequenceTable

if TYPE_CHECKING:
    from forebay_worker.attention.backend import AttentionMetadata
    from forebay_worker.distributed.groups import ProcessGroup
    from forebay_worker.kv_cache import KvCache

log = logging.getLogger(__name__)

# Rows of the output head at once for prompt log-probabilities: 64 x 49,152 logits are 12 MiB.
_HEAD_TILE = 64

# Beside the sampler's own: the row's grammar, which rank 0 alone has, is broken.
_GRAMMAR_FAILURE = -3

_FAILURES = {
    NUMERICAL_FAILURE: (
        SequenceErrorKind.NUMERICAL,
        "the model's logits are NaN or infinite; the weights or the KV cache are damaged",
    ),
    NOTHING_LEFT: (
        SequenceErrorKind.UNSUPPORTED,
        "`allowed_token_ids`, `bad_words`, `min_new_tokens` and the grammar together forbid every token; allow more of "
        "them",
    ),
    _GRAMMAR_FAILURE: (SequenceErrorKind.GRAMMAR, "the grammar cannot go on"),
}


class Model(Protocol):
    """What the executor needs of a decoder. Every rank makes the same calls."""

    def forward(
        self, input_ids_T: torch.Tensor, positions_T: torch.Tensor, kv_cache: KvCache, metadata: AttentionMetadata
    ) -> torch.Tensor:
        """Compute hidden states [T, D] and write the tokens' KV."""
        ...

    def logits(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        """Compute float32 logits [R, V], whole on every rank, in a tensor that the caller may modify."""
        ...


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What a step computed, before any sequence has grown."""

    ids_R: torch.Tensor
    """int64, on the device; one of _FAILURES for a row that could not be sampled."""
    logprobs: Logprobs | None
    """Of the rows that want them, in row order."""
    prompt_logprobs: list[PromptLogprobs]
    forward_ns: int
    grammar_errors: dict[int, str] = dataclasses.field(default_factory=dict)
    """By slot; of rank 0 alone."""


class _Sampled(NamedTuple):
    """What sequences grew by; N = rows whose token is sound."""

    sound_R: npt.NDArray[np.bool_]
    slots_N: U32
    epochs_N: U32
    ids_N: U32
    errors: dict[int, SequenceError]
    """Of failed sequences that have a row in the step, by slot."""


class Executor:
    """One shard's sequences, cache and model."""

    def __init__(
        self,
        model: Model,
        kv_cache: KvCache,
        group: ProcessGroup,
        capabilities: Capabilities,
        grammars: GrammarStore | None = None,
    ) -> None:
        """Take a loaded model. `capabilities` are what the handshake promises, `grammars` what is prepared."""
        self.capabilities = capabilities
        self._model = model
        self._kv_cache = kv_cache
        self._group = group
        self._table = SequenceTable(capabilities, group.device)
        self._batches = BatchBuilder(self._table)
        self._constraints = Constraints(grammars or GrammarStore(), capabilities.vocab_size)
        self._sampling_columns: tuple[tuple[int, bytes], SamplingRows] | None = None

    @torch.inference_mode()
    def execute(self, plan: StepPlan, queued_us: int = 0) -> StepResult:
        """Run one step.

        When memory runs out the answer is a step error: releases, new sequences and appends of the plan stay
        applied, no sequence has grown, and the KV that was written is void. Sequences with a row in the step are
        failed: plans that were sent in the belief that it would succeed may have further rows of them, which are
        answered as errors, until the router releases the sequences and sends them anew. All others go on. In a
        group of several ranks running out of memory is fatal instead: the other ranks wait inside a collective.

        Args:
            plan: the next one; its `step_id` has been checked.
            queued_us: microseconds from its decoding until now.

        Returns: rank 0: all of the result; other ranks: its `step_id` alone.
        Raises: PlanError on what no right router sends; after it the executor must not be used again.
        """
        started = time.perf_counter_ns()
        self._table.apply(plan)
        self._follow(plan)
        try:
            batch = self._batches.build(plan)
            prepared = time.perf_counter_ns()
            outcome = self._compute(batch)
        except (MemoryError, RuntimeError) as error:
            if self._group.world_size > 1 or not _is_out_of_memory(error):
                raise
            return self._fail_step(plan)
        sampled = self._grow(batch, outcome)
        if self._group.rank != 0:
            return StepResult(plan.step_id)
        timings = Timings(
            queued=queued_us,
            prepare=(prepared - started) // 1000,
            forward=outcome.forward_ns // 1000,
            sample=(time.perf_counter_ns() - prepared - outcome.forward_ns) // 1000,
        )
        return _result(plan.step_id, batch, outcome, sampled, timings)

    def _follow(self, plan: StepPlan) -> None:
        """Let grammars come and go with their sequences: rank 0 samples, and it alone has them."""
        if self._constraints and plan.released_slots.size:
            self._constraints.end(plan.released_slots.tolist())
        for new in plan.new_sequences:
            if new.sampling.grammar_id and self._group.rank == 0:
                self._constraints.begin(
                    new.slot, new.sampling.grammar_id, new.token_ids[new.num_prompt_tokens :].tolist()
                )

    def _fail_step(self, plan: StepPlan) -> StepResult:
        num_tokens = int(plan.row_num_tokens.sum())
        message = f"step `{plan.step_id}` of `{num_tokens}` tokens ran out of memory; a smaller KV cache leaves more"
        log.warning("%s", message)
        for slot in plan.row_slots.tolist():
            if not self._table.failed[slot]:
                self._table.fail(slot, SequenceErrorKind.UNSPECIFIED, message)
        return StepResult(plan.step_id, step_error=StepError(StepErrorKind.OUT_OF_MEMORY, message))

    def _compute(self, batch: Batch) -> _Outcome:
        """Everything of a step that can fail; changes nothing but the KV cache."""
        started = time.perf_counter_ns()
        if not batch.num_tokens:
            return _Outcome(_no_ids(batch), None, [], 0)
        hidden_TD = self._model.forward(batch.input_ids_T, batch.positions_T, self._kv_cache, batch.metadata)
        found = [self._prompt_logprobs(hidden_TD, span) for span in batch.prompt_spans]
        prompt_logprobs = [entry for entry in found if entry is not None]
        if not batch.sample_slots_R.size:
            return _Outcome(_no_ids(batch), None, prompt_logprobs, time.perf_counter_ns() - started)
        if batch.sample_slots_R.size < batch.num_tokens:
            hidden_TD = hidden_TD[torch.from_numpy(batch.sample_tokens_R).to(hidden_TD.device)]
        logits_RV = self._model.logits(hidden_TD)
        forward_ns = time.perf_counter_ns() - started
        outcome = self._sample(batch, logits_RV)
        return dataclasses.replace(outcome, prompt_logprobs=prompt_logprobs, forward_ns=forward_ns)

    def _sample(self, batch: Batch, logits_RV: torch.Tensor) -> _Outcome:
        """Rank 0 chooses, all ranks learn what; log-probabilities are rank 0's alone."""
        if self._group.rank != 0:
            empty_R = torch.empty(logits_RV.shape[0], dtype=torch.int64, device=logits_RV.device)
            return _Outcome(self._group.broadcast(empty_R), None, [], 0)
        rows = self._sampling_rows(batch)
        grammar_errors: dict[int, str] = {}
        if batch.needs_mask_R.any():
            wanted = {row: int(batch.sample_slots_R[row]) for row in batch.needs_mask_R.nonzero()[0].tolist()}
            masks, grammar_errors = self._constraints.masks(wanted)
            rows = dataclasses.replace(rows, grammar_masks=masks)
        processed_R = self._table.processed_logprobs[batch.sample_slots_R]
        wants_raw = bool((batch.wants_logprobs_R & ~processed_R).any())
        raw_RV = logits_RV.clone() if wants_raw and not rows.is_plain_greedy else logits_RV
        ids_R = sample(logits_RV, rows)
        for row in grammar_errors:
            ids_R[row] = _GRAMMAR_FAILURE
        ids_R = self._group.broadcast(ids_R)
        logprobs = self._logprobs(batch, raw_RV, logits_RV, ids_R) if batch.wants_logprobs_R.any() else None
        by_slot = {int(batch.sample_slots_R[row]): error for row, error in grammar_errors.items()}
        return _Outcome(ids_R, logprobs, [], 0, by_slot)

    def _sampling_rows(self, batch: Batch) -> SamplingRows:
        """As `sampling_rows`; what does not change from one decode to the next is kept."""
        key = (self._table.num_changes, batch.sample_slots_R.tobytes())
        if self._sampling_columns is None or self._sampling_columns[0] != key:
            self._sampling_columns = (key, sampling_rows(self._table, batch))
            return self._sampling_columns[1]
        rows = self._sampling_columns[1]
        # The best of the model's own logits is that at any position.
        return rows if rows.is_plain_greedy else at_their_positions(rows, self._table)

    def _logprobs(
        self, batch: Batch, raw_RV: torch.Tensor, processed_RV: torch.Tensor, ids_R: torch.Tensor
    ) -> Logprobs:
        """Log-probabilities of the rows that want them, each of its own kind."""
        wants = np.flatnonzero(batch.wants_logprobs_R)
        slots = batch.sample_slots_R[wants]
        processed = np.flatnonzero(self._table.processed_logprobs[slots])
        index = torch.from_numpy(wants).to(raw_RV.device)
        logits = (processed_RV if processed.size == wants.size else raw_RV)[index]
        if 0 < processed.size < wants.size:
            into = torch.from_numpy(processed).to(raw_RV.device)
            logits[into] = processed_RV[index[into]]
        # A failed row is reported as an error; any id will do for it here.
        ids = ids_R[index].clamp(min=0)
        return logprobs_of(logits, ids, self._table.num_top_logprobs[slots], self._table.top_ties[slots])

    def _prompt_logprobs(self, hidden_TD: torch.Tensor, span: PromptSpan) -> PromptLogprobs | None:
        """Log-probabilities of one sequence's prompt tokens; None on ranks but 0. The head runs in tiles."""
        num_top = max(0, int(self._table.num_prompt_logprobs[span.slot]))
        tiles, ranks = [], []
        for start in range(0, span.targets.size, _HEAD_TILE):
            targets = span.targets[start : start + _HEAD_TILE].astype(np.int64)
            first = span.first_token + start
            logits_NV = self._model.logits(hidden_TD[first : first + targets.size])
            if self._group.rank == 0:
                ids_N = torch.from_numpy(targets).to(logits_NV.device)
                ties_N = np.full(targets.size, self._table.top_ties[span.slot])
                tiles.append(logprobs_of(logits_NV, ids_N, np.full(targets.size, num_top), ties_N))
                ranks.append(ranks_of(logits_NV, ids_N))
        if not tiles:
            return None
        return PromptLogprobs(
            slot=span.slot,
            epoch=int(self._table.epochs[span.slot]),
            first_position=span.first_position,
            logprobs=np.concatenate([tile.logprobs_R for tile in tiles]),
            ranks=np.concatenate(ranks),
            top_counts=np.concatenate([tile.top_counts_R for tile in tiles]) if num_top else np.empty(0, np.uint32),
            top_ids=np.concatenate([tile.top_ids for tile in tiles]),
            top_logprobs=np.concatenate([tile.top_logprobs for tile in tiles]),
        )

    def _grow(self, batch: Batch, outcome: _Outcome) -> _Sampled:
        """Let the sequences grow by what was computed, and fail those that could not be sampled."""
        self._table.advance(batch.slots_S, batch.ends_S)
        ids_R = outcome.ids_R
        host_ids_R = ids_R.numpy(force=True)
        slots_R, sound_R = batch.sample_slots_R, host_ids_R >= 0
        errors = {error.slot: error for error in batch.errors}
        if not sound_R.all():
            for slot, code in zip(slots_R[~sound_R].tolist(), host_ids_R[~sound_R].tolist(), strict=True):
                kind, message = _FAILURES[code]
                errors[slot] = self._table.fail(slot, kind, outcome.grammar_errors.get(slot, message))
            ids_R, slots_R = ids_R[torch.from_numpy(sound_R).to(ids_R.device)], slots_R[sound_R]
            host_ids_R = host_ids_R[sound_R]
        if slots_R.size:
            self._table.extend(slots_R, ids_R, host_ids_R)
        if self._constraints:
            for slot, token_id in zip(slots_R.tolist(), host_ids_R.tolist(), strict=True):
                self._constraints.advance(slot, token_id)
        epochs_R = self._table.epochs[slots_R].astype(np.uint32)
        return _Sampled(sound_R, slots_R.astype(np.uint32), epochs_R, host_ids_R.astype(np.uint32), errors)


def _no_ids(batch: Batch) -> torch.Tensor:
    return torch.empty(0, dtype=torch.int64, device=batch.input_ids_T.device)


def _result(step_id: int, batch: Batch, outcome: _Outcome, sampled: _Sampled, timings: Timings) -> StepResult:
    """Rank 0's result."""
    result = StepResult(
        step_id=step_id,
        slots=sampled.slots_N,
        epochs=sampled.epochs_N,
        num_tokens=np.ones(sampled.slots_N.size, np.uint32),
        token_ids=sampled.ids_N,
        prompt_logprobs=outcome.prompt_logprobs,
        errors=list(sampled.errors.values()),
        timings=timings,
    )
    if outcome.logprobs is None:
        return result
    return _with_logprobs(result, outcome.logprobs, batch.wants_logprobs_R, sampled.sound_R)


def _with_logprobs(
    result: StepResult, found: Logprobs, wants_R: npt.NDArray[np.bool_], sound_R: npt.NDArray[np.bool_]
) -> StepResult:
    """Spread what was found for the rows that want it over all rows, less the failed ones."""
    sound_W = sound_R[wants_R]
    logprobs_R = np.full(wants_R.size, np.nan, np.float32)
    logprobs_R[wants_R] = found.logprobs_R
    counts_R = np.zeros(wants_R.size, np.uint32)
    counts_R[wants_R] = found.top_counts_R
    kept = np.repeat(sound_W, found.top_counts_R)
    return dataclasses.replace(
        result,
        logprobs=logprobs_R[sound_R],
        top_counts=counts_R[sound_R] if counts_R.any() else np.empty(0, np.uint32),
        top_ids=found.top_ids[kept],
        top_logprobs=found.top_logprobs[kept],
    )


def sampling_rows(table: SequenceTable, batch: Batch) -> SamplingRows:
    """The sampling columns of the step's sampling rows."""
    slots_R: I64 = batch.sample_slots_R
    slots = list(enumerate(slots_R.tolist()))
    rows = SamplingRows(
        temperature_R=table.temperature[slots_R],
        top_k_R=table.top_k[slots_R],
        top_p_R=table.top_p[slots_R],
        typical_p_R=table.typical_p[slots_R],
        min_p_R=table.min_p[slots_R],
        repetition_penalty_R=table.repetition_penalty[slots_R],
        frequency_penalty_R=table.frequency_penalty[slots_R],
        presence_penalty_R=table.presence_penalty[slots_R],
        tgi_frequency_penalty_R=table.tgi_frequency_penalty[slots_R],
        seeds_R=table.seed[slots_R].view(np.int64),
        positions_R=table.num_known[slots_R],
        num_prompt_R=table.num_prompt[slots_R],
        slots_R=slots_R,
        token_ids_SL=table.token_ids,
        end_token_ids={},
        logit_bias={row: table.logit_bias[slot] for row, slot in slots if slot in table.logit_bias},
        allowed_token_ids={
            row: table.allowed_token_ids[slot] for row, slot in slots if slot in table.allowed_token_ids
        },
        bad_words={row: table.bad_words[slot] for row, slot in slots if slot in table.bad_words},
        watermark={row: table.watermark[slot] for row, slot in slots if slot in table.watermark},
    )
    return at_their_positions(rows, table)


def at_their_positions(rows: SamplingRows, table: SequenceTable) -> SamplingRows:
    """The same rows with what depends on how long their sequences have become."""
    positions_R = table.num_known[rows.slots_R]
    short_R = positions_R - rows.num_prompt_R < table.min_new_tokens[rows.slots_R]
    end_token_ids = {row: table.end_token_ids[int(rows.slots_R[row])] for row in short_R.nonzero()[0].tolist()}
    return dataclasses.replace(rows, positions_R=positions_R, end_token_ids=end_token_ids)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; torch's CPU allocator says so only in words."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
