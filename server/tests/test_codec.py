"""Protobuf to plain data and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay_worker import sampling
from forebay_worker.codec import decode_grammar, decode_plan, decode_token_table, encode_handshake, encode_result
from forebay_worker.grammar.compiler import GrammarSource, TokenTable
from forebay_worker.pb import worker_pb2 as pb
from forebay_worker.plan import (
    PlanError,
    PromptLogprobs,
    SequenceError,
    SequenceErrorKind,
    StepError,
    StepErrorKind,
    StepResult,
    Timings,
)

from .toy import CAPABILITIES, u32


def packed(*values: int) -> bytes:
    return u32(values).tobytes()


def plan_message(**fields: Any) -> pb.StepPlan:
    rows = {"row_slots": packed(3), "row_epochs": packed(1), "row_num_tokens": packed(1), "row_flags": packed(1)}
    return pb.StepPlan(**{"step_id": 7, "num_decodes": 1, **rows, **fields})


def sampling_message(**fields: Any) -> pb.SamplingParams:
    neutral = {"top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0, "num_prompt_logprobs": -1}
    return pb.SamplingParams(**{**neutral, **fields})


def decode_new(sampling: pb.SamplingParams, **fields: Any) -> Any:
    new = {"slot": 4, "epoch": 2, "token_ids": packed(5, 6, 70000), "num_prompt_tokens": 2, "block_ids": packed(9)}
    message = pb.NewSequence(**{**new, **fields}, sampling=sampling)
    return decode_plan(plan_message(new_sequences=[message])).new_sequences[0]


def test_a_plan_is_read_after_a_trip_over_the_wire():
    message = plan_message(
        released_slots=packed(1, 2),
        released_epochs=packed(8, 9),
        append_slots=packed(3, 4),
        append_counts=packed(1, 2),
        append_blocks=packed(10, 11, 12),
    )
    plan = decode_plan(pb.StepPlan.FromString(message.SerializeToString()))
    assert (plan.step_id, plan.num_decodes) == (7, 1)
    arrays = {f.name: getattr(plan, f.name).tolist() for f in dataclasses.fields(plan) if f.name not in NOT_ARRAYS}
    assert arrays == {
        "released_slots": [1, 2],
        "released_epochs": [8, 9],
        "append_slots": [3, 4],
        "append_counts": [1, 2],
        "append_blocks": [10, 11, 12],
        "row_slots": [3],
        "row_epochs": [1],
        "row_num_tokens": [1],
        "row_flags": [1],
    }


NOT_ARRAYS = ("step_id", "num_decodes", "new_sequences")


def test_a_new_sequence_is_read_with_all_its_sampling_options():
    new = decode_new(
        sampling_message(
            temperature=0.5,
            top_k=40,
            top_p=0.25,
            typical_p=0.75,
            min_p=0.125,
            repetition_penalty=1.5,
            frequency_penalty=0.5,
            presence_penalty=-0.5,
            tgi_frequency_penalty=2.0,
            logit_bias_ids=packed(3, 70000),
            logit_bias_values=np.float32([-100, 0.5]).tobytes(),
            allowed_token_ids=packed(3, 4),
            bad_words=packed(1, 5, 3, 6, 7, 8),
            watermark=pb.Watermark(gamma=0.25, delta=2.0),
            seed=2**64 - 1,
            logprobs_kind=pb.LOGPROBS_KIND_PROCESSED,
            num_top_logprobs=4,
            top_ties=True,
            num_prompt_logprobs=3,
            min_new_tokens=6,
            end_token_ids=packed(1, 2),
            grammar_id="g7",
        )
    )
    assert (new.slot, new.epoch, new.num_prompt_tokens, new.num_computed_tokens) == (4, 2, 2, 0)
    assert (new.token_ids.tolist(), new.block_ids.tolist(), new.unsupported) == ([5, 6, 70000], [9], None)
    assert dataclasses.asdict(new.sampling) == {
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.25,
        "typical_p": 0.75,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "tgi_frequency_penalty": 2.0,
        "logit_bias_ids": (3, 70000),
        "logit_bias_values": (-100.0, 0.5),
        "allowed_token_ids": (3, 4),
        "bad_words": ((5,), (6, 7, 8)),
        "watermark": (0.25, 2.0),
        "seed": 2**64 - 1,
        "processed_logprobs": True,
        "num_top_logprobs": 4,
        "top_ties": True,
        "num_prompt_logprobs": 3,
        "min_new_tokens": 6,
        "end_token_ids": (1, 2),
        "grammar_id": "g7",
    }


def test_every_sampling_option_of_the_protocol_is_read():
    read = {
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "min_p",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "tgi_frequency_penalty",
        "logit_bias_ids",
        "logit_bias_values",
        "allowed_token_ids",
        "bad_words",
        "seed",
        "min_new_tokens",
        "end_token_ids",
        "logprobs_kind",
        "num_top_logprobs",
        "top_ties",
        "num_prompt_logprobs",
        "watermark",
        "grammar_id",
    }
    assert set(pb.SamplingParams.DESCRIPTOR.fields_by_name) == read


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"typical_p": -0.5},
        {"typical_p": 1.5},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"frequency_penalty": float("inf")},
        {"presence_penalty": float("nan")},
        {"tgi_frequency_penalty": float("inf")},
        {"logit_bias_values": np.float32([np.inf]).tobytes(), "logit_bias_ids": packed(1)},
        {"logprobs_kind": 7},
        {"watermark": pb.Watermark(gamma=0.0, delta=2.0)},
        {"watermark": pb.Watermark(gamma=1.0, delta=2.0)},
        {"watermark": pb.Watermark(gamma=0.5, delta=float("nan"))},
    ],
)
def test_a_value_that_no_option_has_is_named(fields: dict[str, Any]):
    assert next(iter(fields)) in decode_new(sampling_message(**fields)).unsupported


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"row_slots": b"\0\0\0"}, "`row_slots` has 3 bytes"),
        ({"row_flags": packed(1, 2)}, "`row_slots` has `1` entries and `row_flags` `2`"),
        ({"released_slots": packed(1)}, "`released_epochs` `0`"),
        ({"append_slots": packed(1), "append_counts": packed(2), "append_blocks": packed(5)}, "sum to `2`"),
        ({"num_decodes": 2}, "num_decodes is `2`, the plan has `1` rows"),
    ],
)
def test_arrays_that_do_not_agree_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises(PlanError, match=message):
        decode_plan(plan_message(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_prompt_tokens": 0}, "num_prompt_tokens is `0`, expected 1 to 3"),
        ({"num_prompt_tokens": 4}, "num_prompt_tokens is `4`"),
        ({"num_computed_tokens": 3}, "num_computed_tokens is `3`, expected less than 3"),
    ],
)
def test_lengths_of_a_new_sequence_that_cannot_be_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises(PlanError, match=message):
        decode_new(sampling_message(), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logit_bias_ids": packed(1, 2), "logit_bias_values": bytes(4)}, "`logit_bias_ids` has `2` entries"),
        ({"bad_words": packed(2, 5)}, "`bad_words` has a run of `2` ids, expected 1 to the 1"),
        ({"bad_words": packed(0)}, "`bad_words` has a run of `0` ids"),
    ],
)
def test_lists_of_sampling_options_that_do_not_agree_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises(PlanError, match=message):
        decode_new(sampling_message(**fields))


OPTION_FILES = {
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "tgi_frequency_penalty",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "min_new_tokens",
    "watermark",
}


@pytest.mark.parametrize("option", sorted(OPTION_FILES))
def test_an_option_is_a_field_of_the_protocol_and_a_file_that_the_pipeline_uses(option: str):
    assert set(pb.SamplingParams.DESCRIPTOR.fields_by_name) & {option, f"{option}_ids"}
    folder = Path(sampling.__file__).parent
    assert (folder / f"{option}.py").is_file()
    users = [(folder / name).read_text() for name in ("sampler.py", "truncation.py")]
    assert any(f"from forebay_worker.sampling.{option} import" in source for source in users)


def test_every_field_that_changes_the_choice_has_an_option_file():
    beside = {
        "seed",
        "logit_bias_values",
        "end_token_ids",
        "logprobs_kind",
        "num_top_logprobs",
        "top_ties",
        "num_prompt_logprobs",
        "grammar_id",
    }
    fields = set(pb.SamplingParams.DESCRIPTOR.fields_by_name) - beside
    assert {name.removesuffix("_ids") if name == "logit_bias_ids" else name for name in fields} == OPTION_FILES


def test_a_result_is_written_whole():
    result = StepResult(
        step_id=9,
        slots=u32([1, 2]),
        epochs=u32([3, 4]),
        num_tokens=u32([1, 1]),
        token_ids=u32([50, 60]),
        logprobs=np.float32([-0.5, np.nan]),
        top_counts=u32([1, 0]),
        top_ids=u32([50]),
        top_logprobs=np.float32([-0.5]),
        prompt_logprobs=[
            PromptLogprobs(1, 3, 1, np.float32([-1.0]), u32([7]), u32([1]), u32([8]), np.float32([-0.25])),
        ],
        errors=[SequenceError(5, 6, SequenceErrorKind.NUMERICAL, "bad")],
        timings=Timings(1, 2, 3, 4),
    )
    message = pb.StepResult.FromString(encode_result(result).SerializeToString())
    assert np.frombuffer(message.token_ids, "<u4").tolist() == [50, 60]
    assert np.frombuffer(message.logprobs, "<f4").tolist()[0] == -0.5
    assert np.frombuffer(message.prompt_logprobs[0].top_logprobs, "<f4").tolist() == [-0.25]
    assert np.frombuffer(message.prompt_logprobs[0].ranks, "<u4").tolist() == [7]
    assert (message.errors[0].slot, message.errors[0].kind) == (5, pb.SEQUENCE_ERROR_KIND_NUMERICAL)
    assert (message.timings.queued, message.timings.sample) == (1, 4)
    assert not message.HasField("step_error")


def test_a_failed_step_and_a_result_without_content_take_few_bytes():
    failed = StepResult(3, step_error=StepError(StepErrorKind.OUT_OF_MEMORY, "out"))
    assert encode_result(failed).step_error.kind == pb.STEP_ERROR_KIND_OUT_OF_MEMORY
    assert len(encode_result(StepResult(3)).SerializeToString()) < 8


def test_the_handshake_says_every_capability():
    message = encode_handshake(CAPABILITIES, 2, "1.0")
    assert (message.protocol, message.incarnation, message.worker_version) == (1, 2, "1.0")
    for name in ("num_blocks", "block_size", "max_sequences", "max_plan_tokens", "max_run_ahead", "vocab_size"):
        assert getattr(message, name) == getattr(CAPABILITIES, name)
    assert list(message.features) == ["logprobs", "prompt_logprobs"]


def token_table(**changes: Any) -> pb.TokenTable:
    fields = {
        "token_bytes": b"abc<end>",
        "token_lengths": u32([1, 2, 0, 5]).tobytes(),
        "special_token_ids": u32([3]).tobytes(),
        "end_token_ids": u32([3]).tobytes(),
    }
    return pb.TokenTable(**{**fields, **changes})


def test_a_token_table_is_cut_into_tokens():
    table = decode_token_table(token_table(), vocab_size=4)
    assert table == TokenTable((b"a", b"bc", b"", b"<end>"), (3,), (3,))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_lengths": u32([1, 2, 0]).tobytes()}, "expected vocab_size `4`"),
        ({"token_bytes": b"abc"}, "`token_bytes` has `3` bytes"),
        ({"end_token_ids": u32([4]).tobytes()}, "token id `4`, expected less than 4"),
    ],
)
def test_a_token_table_that_does_not_fit_is_refused(changes: dict[str, Any], words: str):
    with pytest.raises(PlanError, match=words):
        decode_token_table(token_table(**changes), vocab_size=4)


def test_a_grammar_is_read_with_its_kind_and_its_absence_is_named():
    assert decode_grammar(pb.PrepareRequest(grammar_id="g", regex="a*")) == GrammarSource("regex", "a*")
    with pytest.raises(PlanError, match="grammar `g` has no source"):
        decode_grammar(pb.PrepareRequest(grammar_id="g"))
