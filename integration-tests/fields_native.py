"""The rows of the routes that take TGI's bodies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from field_rows import (
    PROMPT,
    REPEATING,
    Answer,
    Beside,
    Route,
    Row,
    Seen,
    another_text,
    becomes_greedy,
    checked_only,
    same,
    stream_row,
    streams_the_same,
    without_effect,
)

SAMPLED = {"do_sample": True, "seed": 3}
TOLD = {"details": True}
BASE = {"inputs": PROMPT, "parameters": {"max_new_tokens": 5}}
SHORT = {"parameters.max_new_tokens": 1}


def parameter(name: str, value: Any, seen: Seen, **more: Any) -> Row:
    more["beside"] = {f"parameters.{name}": value for name, value in more.get("beside", {}).items()}
    for key in ("accepted", "refused"):
        more[key] = tuple(
            Beside(given.value, {f"parameters.{name}": value for name, value in given.fields.items()})
            if isinstance(given, Beside)
            else given
            for given in more.get(key, ())
        )
    return Row(f"parameters.{name}", value, seen, **more)


def native_sampling() -> list[Row]:
    return [
        parameter("do_sample", True, another_text, default=False, refused=("yes", 1), beside={"seed": 3}),
        parameter(
            "temperature",
            0.01,
            becomes_greedy,
            default=1.0,
            accepted=(1e-6, 1000),
            refused=(0, -1, "x"),
            beside=SAMPLED,
        ),
        parameter("top_k", 1, becomes_greedy, accepted=(1, 2**31 - 1), refused=(0, -1, 2**31, 1.5), beside=SAMPLED),
        parameter("top_p", 0.01, becomes_greedy, accepted=(0.001, 0.999), refused=(0, 1, "x"), beside=SAMPLED),
        parameter("typical_p", 0.01, another_text, accepted=(0.001, 0.999), refused=(0, 1, {}), beside=SAMPLED),
        parameter(
            "seed",
            2**64 - 1,
            lambda case: case.changed.details["seed"] == 2**64 - 1 != case.plain.details["seed"],
            accepted=(0, 2**64 - 1),
            refused=(-1, 2**64, 0.5),
            beside=TOLD | {"do_sample": True},
        ),
        replace(
            parameter("repetition_penalty", 2, another_text, default=1.0, accepted=(0.01, 100), refused=(0, -1, [])),
            beside={"inputs": REPEATING},
        ),
        parameter("watermark", True, another_text, default=False, refused=("x",)),
        replace(
            parameter("frequency_penalty", 2, another_text, default=0.0, accepted=(-2, 2), refused=(-2.1, 2.1, True)),
            beside={"inputs": REPEATING},
        ),
    ]


def native_ends() -> list[Row]:
    return [
        parameter(
            "max_new_tokens",
            3,
            lambda case: case.changed.num_tokens == 3 != case.plain.num_tokens,
            accepted=(
                1,
                Beside(lambda info, plain: info["max_total_tokens"] - plain.num_prompt_tokens, {"stop": ["."]}),
            ),
            refused=(lambda info, plain: info["max_total_tokens"] - plain.num_prompt_tokens + 1, 0, -1, "x"),
            beside=TOLD,
        ),
        parameter(
            "stop",
            ["ris"],
            lambda case: case.changed.text.endswith("Paris") and case.changed.finish_reason == "stop_sequence",
            default=[],
            accepted=(["1", "2", "3", "4"],),
            refused=(["1", "2", "3", "4", "5"], [""], "x"),
            beside=TOLD,
        ),
        parameter(
            "truncate",
            2,
            lambda case: case.changed.num_prompt_tokens == 2 < case.plain.num_prompt_tokens,
            accepted=(1, lambda info, _: info["max_input_tokens"]),
            refused=(0, -1, lambda info, _: info["max_input_tokens"] + 1, 1.5),
            beside=TOLD,
        ),
        parameter(
            "top_n_tokens",
            3,
            lambda case: "top_tokens" not in first_token(case.plain) and len(first_top_tokens(case.changed)) >= 3,
            default=0,
            accepted=(0, 5),
            refused=(6, -1, "x"),
            beside=TOLD,
        ),
        parameter("grammar", None, same, refused=({"type": "regex", "value": "a"},)),
        parameter("adapter_id", None, same, refused=("mine",)),
    ]


def first_token(answer: Answer) -> Any:
    return answer.parts[0] if answer.streams else answer.details


def first_top_tokens(answer: Answer) -> Any:
    top = first_token(answer)["top_tokens"]
    return top if answer.streams else top[0]


def native_whole() -> list[Row]:
    """Rows of routes that do not stream."""
    return [
        parameter(
            "best_of",
            2,
            lambda case: len(case.changed.details["best_of_sequences"]) == 1,
            default=1,
            accepted=(0, 1, 2),
            refused=(3, -1, "x", Beside(2, {"temperature": None}), Beside(2, {"seed": 1})),
            # It passes for sampling and takes the best token each time.
            beside=TOLD | {"temperature": 1.0},
        ),
        parameter("details", True, lambda case: len(case.changed.details["tokens"]) == 5, default=False, refused=(0,)),
        parameter(
            "decoder_input_details",
            True,
            lambda case: [token["text"] for token in case.changed.details["prefill"][1:3]] == ["The", " capital"],
            default=False,
            refused=("x",),
        ),
    ]


def native_streamed() -> list[Row]:
    return [
        parameter("best_of", 1, same, default=1, accepted=(1,), refused=(0, 2, "x"), beside=SAMPLED),
        parameter(
            "details", True, lambda case: case.changed.details["generated_tokens"] == 5, default=False, refused=(0,)
        ),
        parameter("decoder_input_details", False, same, default=False, refused=(True, "x")),
    ]


def native_rows(*, streams: bool = False, full_text: bool = False) -> list[Row]:
    shown = Row(
        "parameters.return_full_text",
        not full_text,
        lambda case: case.plain.text != case.changed.text and (PROMPT in case.changed.text) is not full_text,
        default=full_text,
        refused=("x",),
    )
    return [
        Row("inputs", "The capital of Italy is", another_text, refused=("", None, 5, [PROMPT])),
        Row(
            "parameters",
            {"max_new_tokens": 2},
            lambda case: case.changed.num_tokens == 2 < case.plain.num_tokens,
            accepted=({"stop": ["."]},),
            refused=(5, [], "x"),
        ),
        without_effect("options", {"use_cache": False}),
        shown,
        *native_sampling(),
        *native_ends(),
        *(native_streamed() if streams else native_whole()),
    ]


def token_rows() -> list[Row]:
    """Rows of `/tokenize`: only the prompt matters, all else is checked."""
    prompt = Row(
        "inputs", "The capital", lambda case: case.changed.parts == case.plain.parts[:3], refused=("", None, 5)
    )
    return checked_only([*native_rows(), stream_row(same)], [prompt])


ROUTES = {
    "/": Route(BASE, SHORT, True, [*native_rows(full_text=True), stream_row(streams_the_same)]),
    "/generate": Route(BASE, SHORT, True, [*native_rows(), stream_row(same)]),
    "/generate_stream": Route(BASE, SHORT, True, [*native_rows(streams=True), stream_row(same)]),
    "/tokenize": Route(BASE, SHORT, True, token_rows()),
}
