"""Protobuf to `plan.py` and back; with `service.py` the only importer of `pb`. Checks shapes, never meaning.

Arrays cross as packed little-endian bytes: numpy reads them in place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

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

# Options of worker.proto that this worker does not have, with the values that switch them off.
_NOT_BUILT: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("typical_p", (0.0, 1.0)),
    ("min_p", (0.0,)),
    ("frequency_penalty", (0.0,)),
    ("presence_penalty", (0.0,)),
    ("tgi_frequency_penalty", (0.0,)),
    ("logit_bias_ids", (b"",)),
    ("allowed_token_ids", (b"",)),
    ("bad_words", (b"",)),
    ("grammar_id", ("",)),
)


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
    _check_parallel(plan, "released_slots", "released_epochs")
    _check_parallel(plan, "append_slots", "append_counts")
    for name in ("row_epochs", "row_num_tokens", "row_flags"):
        _check_parallel(plan, "row_slots", name)
    if (num_blocks := int(plan.append_counts.sum())) != plan.append_blocks.size:
        raise PlanError(f"append_counts sum to `{num_blocks}`, append_blocks has `{plan.append_blocks.size}` entries")
    if plan.num_decodes > plan.row_slots.size:
        raise PlanError(f"num_decodes is `{plan.num_decodes}`, the plan has `{plan.row_slots.size}` rows")
    return plan


def _u32(data: bytes, name: str) -> U32:
    if len(data) % 4:
        raise PlanError(f"`{name}` has {len(data)} bytes, expected a multiple of 4")
    return np.frombuffer(data, dtype="<u4")


def _check_parallel(plan: StepPlan, first: str, second: str) -> None:
    sizes = getattr(plan, first).size, getattr(plan, second).size
    if sizes[0] != sizes[1]:
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
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p,
        repetition_penalty=message.repetition_penalty,
        seed=message.seed,
        processed_logprobs=message.logprobs_kind == pb.LOGPROBS_KIND_PROCESSED,
        num_top_logprobs=message.num_top_logprobs,
        top_ties=message.top_ties,
        num_prompt_logprobs=message.num_prompt_logprobs,
        min_new_tokens=message.min_new_tokens,
        end_token_ids=tuple(_u32(message.end_token_ids, "end_token_ids").tolist()),
    )


def _unsupported(message: pb.SamplingParams) -> str | None:
    """Say which option this worker does not have, or which value no option has; None: it can do all of it."""
    for name, neutral in _NOT_BUILT:
        if (value := getattr(message, name)) not in neutral:
            shown = f" is `{value}`" if isinstance(value, float) else ""
            return f"`{name}`{shown}: this worker does not have this option; leave it out"
    if message.HasField("watermark"):
        return "`watermark`: this worker does not have this option; leave it out"
    if message.logprobs_kind not in (pb.LOGPROBS_KIND_RAW, pb.LOGPROBS_KIND_PROCESSED):
        return f"`logprobs_kind` is `{message.logprobs_kind}`, expected 0 or 1"
    if not (math.isfinite(message.temperature) and message.temperature >= 0.0):
        return f"`temperature` is `{message.temperature}`, expected 0 or more"
    if not 0.0 < message.top_p <= 1.0:
        return f"`top_p` is `{message.top_p}`, expected above 0 and at most 1"
    if not (math.isfinite(message.repetition_penalty) and message.repetition_penalty > 0.0):
        return f"`repetition_penalty` is `{message.repetition_penalty}`, expected above 0"
    return None


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
