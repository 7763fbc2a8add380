"""Protobuf to `plan.py` and back; with `service.py` the only importer of `pb`. Checks shapes, never meaning.

Arrays cross as packed little-endian bytes: numpy reads them in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from forebay_worker.grammar.compiler import GrammarSource, TokenTable
from forebay_worker.pb import worker_pb2 as pb
from forebay_worker.plan import (
    U32,
    Capabilities,
    NewSequence,
    PlanError,
    PromptLogprobs,
    SamplingParams,
    StepPlan,
    StepResult,
    Timings,
)

PROTOCOL = 1

# The values that an option can have, as a predicate and in words.
_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("temperature", lambda value: value >= 0.0, "0 or more"),
    ("top_p", lambda value: 0.0 < value <= 1.0, "above 0 and at most 1"),
    # 0, which a sender that does not know the option leaves, is off like 1.
    ("typical_p", lambda value: 0.0 <= value <= 1.0, "0 to 1"),
    ("min_p", lambda value: 0.0 <= value <= 1.0, "0 to 1"),
    ("repetition_penalty", lambda value: value > 0.0, "above 0"),
    ("frequency_penalty", math.isfinite, "a finite number"),
    ("presence_penalty", math.isfinite, "a finite number"),
    ("tgi_frequency_penalty", math.isfinite, "a finite number"),
)


# Fields of a plan that have an entry for each of the other's.
_PARALLEL = (
    ("released_slots", "released_epochs"),
    ("append_slots", "append_counts"),
    ("row_slots", "row_epochs"),
    ("row_slots", "row_num_tokens"),
    ("row_slots", "row_flags"),
)
_NO_U32: U32 = np.empty(0, np.uint32)


def decode_plan(message: pb.StepPlan) -> StepPlan:
    """Read a plan. Raises: PlanError naming the field where lengths do not agree."""
    plan = StepPlan(
        step_id=message.step_id,
        released_slots=_u32(message.released_slots, "released_slots"),
        released_epochs=_u32(message.released_epochs, "released_epochs"),
        new_sequences=[_decode_new_sequence(new) for new in message.new_sequences],
        append_slots=_u32(message.append_slots, "append_slots"),
        append_counts=_u32(message.append_counts, "append_counts"),
        append_blocks=_u32(message.append_blocks, "append_blocks"),
        num_decodes=message.num_decodes,
        row_slots=_u32(message.row_slots, "row_slots"),
        row_epochs=_u32(message.row_epochs, "row_epochs"),
        row_num_tokens=_u32(message.row_num_tokens, "row_num_tokens"),
        row_flags=_u32(message.row_flags, "row_flags"),
    )
    for first, second in _PARALLEL:
        if getattr(plan, first).size != getattr(plan, second).size:
            _refuse_unequal(plan, first, second)
    if (num_blocks := int(plan.append_counts.sum()) if plan.append_counts.size else 0) != plan.append_blocks.size:
        raise PlanError(f"append_counts sum to `{num_blocks}`, append_blocks has `{plan.append_blocks.size}` entries")
    if plan.num_decodes > plan.row_slots.size:
        raise PlanError(f"num_decodes is `{plan.num_decodes}`, the plan has `{plan.row_slots.size}` rows")
    return plan


def _u32(data: bytes, name: str) -> U32:
    if not data:
        return _NO_U32
    if len(data) % 4:
        raise PlanError(f"`{name}` has {len(data)} bytes, expected a multiple of 4")
    return np.frombuffer(data, dtype="<u4")


def _refuse_unequal(plan: StepPlan, first: str, second: str) -> NoReturn:
    sizes = getattr(plan, first).size, getattr(plan, second).size
    raise PlanError(f"`{first}` has `{sizes[0]}` entries and `{second}` `{sizes[1]}`, expected as many")


def _decode_new_sequence(message: pb.NewSequence) -> NewSequence:
    token_ids = _u32(message.token_ids, "token_ids")
    where = f"sequence ({message.slot}, {message.epoch})"
    if not 0 < message.num_prompt_tokens <= token_ids.size:
        raise PlanError(
            f"{where}: num_prompt_tokens is `{message.num_prompt_tokens}`, expected 1 to {token_ids.size} known tokens"
        )
    if message.num_computed_tokens >= token_ids.size:
        raise PlanError(
            f"{where}: num_computed_tokens is `{message.num_computed_tokens}`, expected less than {token_ids.size}"
        )
    return NewSequence(
        slot=message.slot,
        epoch=message.epoch,
        token_ids=token_ids,
        num_prompt_tokens=message.num_prompt_tokens,
        num_computed_tokens=message.num_computed_tokens,
        block_ids=_u32(message.block_ids, "block_ids"),
        sampling=_decode_sampling(message.sampling),
        unsupported=_unsupported(message.sampling),
    )


def _decode_sampling(message: pb.SamplingParams) -> SamplingParams:
    bias_ids = _u32(message.logit_bias_ids, "logit_bias_ids")
    bias_values = _u32(message.logit_bias_values, "logit_bias_values").view("<f4")
    if bias_ids.size != bias_values.size:
        raise PlanError(
            f"`logit_bias_ids` has `{bias_ids.size}` entries and `logit_bias_values` `{bias_values.size}`, "
            "expected as many"
        )
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p,
        typical_p=message.typical_p or 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty,
        frequency_penalty=message.frequency_penalty,
        presence_penalty=message.presence_penalty,
        tgi_frequency_penalty=message.tgi_frequency_penalty,
        seed=message.seed,
        processed_logprobs=message.logprobs_kind == pb.LOGPROBS_KIND_PROCESSED,
        num_top_logprobs=message.num_top_logprobs,
        top_ties=message.top_ties,
        num_prompt_logprobs=message.num_prompt_logprobs,
        min_new_tokens=message.min_new_tokens,
        end_token_ids=tuple(_u32(message.end_token_ids, "end_token_ids").tolist()),
        logit_bias_ids=tuple(bias_ids.tolist()),
        logit_bias_values=tuple(bias_values.tolist()),
        allowed_token_ids=tuple(_u32(message.allowed_token_ids, "allowed_token_ids").tolist()),
        bad_words=_runs(_u32(message.bad_words, "bad_words"), "bad_words"),
        watermark=(message.watermark.gamma, message.watermark.delta) if message.HasField("watermark") else None,
        grammar_id=message.grammar_id,
    )


def _runs(packed: U32, name: str) -> tuple[tuple[int, ...], ...]:
    """Runs of ids, each preceded by its length."""
    values, runs, at = packed.tolist(), [], 0
    while at < len(values):
        length, start = values[at], at + 1
        if not 0 < length <= len(values) - start:
            raise PlanError(
                f"`{name}` has a run of `{length}` ids, expected 1 to the {len(values) - start} that follow"
            )
        runs.append(tuple(values[start : start + length]))
        at = start + length
    return tuple(runs)


def _unsupported(message: pb.SamplingParams) -> str | None:
    """Say which option this worker does not have, or which value no option has; None: it can do all of it."""
    gamma, delta = message.watermark.gamma, message.watermark.delta
    if message.HasField("watermark") and not (0.0 < gamma < 1.0 and math.isfinite(delta)):
        return f"`watermark` has gamma `{gamma}` and delta `{delta}`, expected between 0 and 1, and a finite number"
    if message.logprobs_kind not in (pb.LOGPROBS_KIND_RAW, pb.LOGPROBS_KIND_PROCESSED):
        return f"`logprobs_kind` is `{message.logprobs_kind}`, expected 0 or 1"
    for name, holds, expected in _RANGES:
        value = getattr(message, name)
        if not (math.isfinite(value) and holds(value)):
            return f"`{name}` is `{value}`, expected {expected}"
    if not np.isfinite(np.frombuffer(message.logit_bias_values, "<f4")).all():
        return "`logit_bias_values` has a value that is not finite"
    return None


def decode_token_table(message: pb.TokenTable, vocab_size: int) -> TokenTable:
    """Read the handshake's table. Raises: PlanError naming the field that does not fit the vocabulary."""
    lengths = _u32(message.token_lengths, "token_lengths")
    if lengths.size != vocab_size:
        raise PlanError(f"`token_lengths` has `{lengths.size}` entries, expected vocab_size `{vocab_size}`")
    if (num_bytes := int(lengths.sum(dtype=np.int64))) != len(message.token_bytes):
        raise PlanError(f"`token_lengths` sum to `{num_bytes}`, `token_bytes` has `{len(message.token_bytes)}` bytes")
    marked = [_u32(getattr(message, name), name) for name in ("special_token_ids", "end_token_ids")]
    if (highest := max(int(ids.max(initial=0)) for ids in marked)) >= vocab_size:
        raise PlanError(f"the token table names token id `{highest}`, expected less than {vocab_size}")
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    tokens = tuple(message.token_bytes[start:end] for start, end in zip([0, *ends], ends, strict=False))
    return TokenTable(tokens, *(tuple(ids.tolist()) for ids in marked))


def decode_grammar(message: pb.PrepareRequest) -> GrammarSource:
    """Read what is to be compiled. Raises: PlanError if it holds no grammar."""
    kind = message.WhichOneof("grammar")
    if kind is None:
        raise PlanError(f"grammar `{message.grammar_id}` has no source")
    return GrammarSource(kind, getattr(message, kind))


def encode_result(result: StepResult) -> pb.StepResult:
    """Write a result; what is empty or zero takes no bytes."""
    message = pb.StepResult(
        step_id=result.step_id,
        slots=_bytes(result.slots, "<u4"),
        epochs=_bytes(result.epochs, "<u4"),
        num_tokens=_bytes(result.num_tokens, "<u4"),
        token_ids=_bytes(result.token_ids, "<u4"),
        logprobs=_bytes(result.logprobs, "<f4"),
        top_counts=_bytes(result.top_counts, "<u4"),
        top_ids=_bytes(result.top_ids, "<u4"),
        top_logprobs=_bytes(result.top_logprobs, "<f4"),
        prompt_logprobs=[_encode_prompt_logprobs(entry) for entry in result.prompt_logprobs],
        errors=[
            pb.SequenceError(
                slot=error.slot, epoch=error.epoch, kind=pb.SequenceErrorKind.Name(error.kind), message=error.message
            )
            for error in result.errors
        ],
    )
    if (timings := result.timings) != Timings():
        message.timings.queued, message.timings.prepare = timings.queued, timings.prepare
        message.timings.forward, message.timings.sample = timings.forward, timings.sample
    if (error := result.step_error) is not None:
        message.step_error.CopyFrom(pb.StepError(kind=pb.StepErrorKind.Name(error.kind), message=error.message))
    return message


def _encode_prompt_logprobs(entry: PromptLogprobs) -> pb.PromptLogprobs:
    return pb.PromptLogprobs(
        slot=entry.slot,
        epoch=entry.epoch,
        first_position=entry.first_position,
        logprobs=_bytes(entry.logprobs, "<f4"),
        ranks=_bytes(entry.ranks, "<u4"),
        top_counts=_bytes(entry.top_counts, "<u4"),
        top_ids=_bytes(entry.top_ids, "<u4"),
        top_logprobs=_bytes(entry.top_logprobs, "<f4"),
    )


def _bytes(array: np.ndarray[Any, Any], dtype: str) -> bytes:
    return array.astype(dtype, copy=False).tobytes() if array.size else b""


def encode_handshake(capabilities: Capabilities, incarnation: int, worker_version: str) -> pb.HandshakeResponse:
    """Write what this worker is and can do."""
    return pb.HandshakeResponse(
        protocol=PROTOCOL,
        incarnation=incarnation,
        rank=capabilities.rank,
        world_size=capabilities.world_size,
        num_blocks=capabilities.num_blocks,
        block_size=capabilities.block_size,
        max_sequences=capabilities.max_sequences,
        max_plan_tokens=capabilities.max_plan_tokens,
        max_run_ahead=capabilities.max_run_ahead,
        vocab_size=capabilities.vocab_size,
        max_position_embeddings=capabilities.max_position_embeddings,
        dtype=capabilities.dtype,
        device=capabilities.device,
        features=list(capabilities.features),
        kv_cache_dtype=capabilities.kv_cache_dtype,
        kv_cache_bytes=capabilities.kv_cache_bytes,
        attention_backend=capabilities.attention_backend,
        worker_version=worker_version,
    )
