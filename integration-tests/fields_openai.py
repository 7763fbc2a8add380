"""The rows of the routes that take OpenAI's bodies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from field_rows import (
    END,
    PROMPT,
    REPEATING,
    START,
    VOCABULARY,
    Answer,
    Beside,
    Case,
    Route,
    Row,
    another_text,
    becomes_greedy,
    checked_only,
    room,
    same,
    stream_row,
    streams_the_same,
    unsupported,
    without_effect,
)

PARIS = 7042
"""The id of " Paris"."""
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
CONTINUED = [*MESSAGES, {"role": "assistant", "content": PROMPT}]
GREEDY = {"max_tokens": 8, "temperature": 0}
SHORT = {"max_tokens": 1}
SAMPLED = {"temperature": 1, "seed": 3}


def sampling_rows(repeating: dict[str, Any]) -> list[Row]:
    return [
        Row("temperature", 0, becomes_greedy, 1.0, (0, 2), (-0.1, 2.1, "hot"), {"temperature": None, "seed": 3}),
        Row("top_p", 0.01, becomes_greedy, 1.0, (0, 1), (-0.1, 1.1, []), SAMPLED),
        Row("top_k", 1, becomes_greedy, 0, (-1, 0, 2**31 - 1), (-2, 2**31, 1.5), SAMPLED),
        Row("typical_p", 0.01, another_text, 1.0, (0.001, 1), (0, 1.1, "x"), SAMPLED),
        Row("min_p", 1, becomes_greedy, 0.0, (0, 1), (-0.1, 1.1, True), SAMPLED),
        Row("seed", 8, another_text, accepted=(-(2**63), 2**64 - 1), refused=(0.5, 2**64, "x"), beside=SAMPLED),
        Row("repetition_penalty", 2, another_text, 1.0, (0.01, 100), (0, -1, {}), repeating),
        Row("frequency_penalty", 2, another_text, 0.0, (-2, 2), (-2.1, 2.1, "x"), repeating),
        Row("presence_penalty", 2, another_text, 0.0, (-2, 2), (-2.1, 2.1, "x"), repeating),
        Row(
            "logit_bias",
            {str(PARIS): 100},
            lambda case: case.changed.text == " Paris" * 8,
            accepted=({}, [], {"0": -100, str(VOCABULARY - 1): 100}, biases(1024)),
            refused=({"0": -100.5}, {"0": 100.5}, {str(VOCABULARY): 1}, {"a": 1}, [1], biases(1025)),
        ),
        Row(
            "allowed_token_ids",
            [PARIS],
            lambda case: case.changed.text == " Paris" * 8,
            accepted=([0, VOCABULARY - 1],),
            refused=([], [VOCABULARY], [-1], 5),
        ),
        Row(
            "bad_words",
            ["Paris"],
            lambda case: "Paris" in case.plain.text and "Paris" not in case.changed.text,
            default=[],
            accepted=(["x"] * 128,),
            refused=(["x"] * 129, [""], "x"),
        ),
    ]


def biases(count: int) -> dict[str, float]:
    return {str(token_id): 0.5 for token_id in range(count)}


def length_row(name: str, lowest: Any) -> Row:
    return Row(
        name,
        1,
        lambda case: case.changed.num_tokens == 1 < case.plain.num_tokens,
        accepted=(lowest, room),
        refused=(lambda info, plain: room(info, plain) + 1, 0, -1, "x"),
        beside={"max_tokens": None, "stop": "."},
    )


def ends_before(case: Case, text: str) -> bool:
    return case.plain.text.startswith(case.changed.text + text) and case.changed.finish_reason == "stop"


def end_rows() -> list[Row]:
    ended = {"logit_bias": {str(END): 100}}
    return [
        Row(
            "min_tokens",
            4,
            lambda case: case.plain.num_tokens < 4 <= case.changed.num_tokens,
            default=0,
            accepted=(0, 8),
            refused=(9, -1, "x"),
            beside=ended | {"max_tokens": 8},
        ),
        Row(
            "ignore_eos",
            True,
            lambda case: (
                (case.plain.num_tokens, case.plain.finish_reason) == (1, "stop")
                and (case.changed.num_tokens, case.changed.finish_reason) == (8, "length")
            ),
            default=False,
            refused=(1, "x"),
            beside=ended,
        ),
        Row(
            "stop",
            "Paris",
            lambda case: (
                case.plain.text.startswith(f"{case.changed.text}Paris") and case.changed.finish_reason == "stop"
            ),
            accepted=(["1", "2", "3", "4"], []),
            refused=(["1", "2", "3", "4", "5"], [""], "", 5, {}),
        ),
        Row(
            "stop_token_ids",
            [PARIS],
            lambda case: (
                case.plain.text.startswith(f"{case.changed.text} Paris") and case.changed.finish_reason == "stop"
            ),
            default=[],
            accepted=([0, VOCABULARY - 1],),
            refused=([VOCABULARY], [-1], 5, ["x"]),
        ),
        Row(
            "include_stop_str_in_output",
            True,
            lambda case: case.changed.text == f"{case.plain.text}Paris",
            default=False,
            refused=(1, "x"),
            beside={"stop": "Paris"},
        ),
        Row(
            "skip_special_tokens",
            False,
            lambda case: (case.plain.text, case.changed.text) == ("", "<|im_start|>" * 8),
            default=True,
            refused=(1, "x"),
            beside={"allowed_token_ids": [START]},
        ),
    ]


def answer_rows() -> list[Row]:
    chunks = {"stream": True}
    return [
        Row(
            "model",
            "mine",
            lambda case: case.plain.last["model"] != case.changed.last["model"] == "mine",
            "tgi",
            (),
            (5,),
        ),
        stream_row(streams_the_same),
        Row(
            "stream_options",
            {"include_usage": True},
            lambda case: "usage" in case.changed.last and not case.changed.last["choices"],
            accepted=({}, {"include_usage": False}),
            refused=(5, [], Beside({}, {"stream": False})),
            beside=chunks,
        ),
        Row(
            "stream_options.include_usage",
            True,
            lambda case: case.plain.last["choices"] != [] == case.changed.last["choices"],
            default=False,
            refused=(1, "x"),
            beside=chunks,
        ),
        replace(unsupported("stream_options.include_obfuscation", True, False), beside=chunks),
        Row(
            "n",
            2,
            lambda case: [choice["index"] for choice in case.changed.choices] == [0, 1],
            default=1,
            accepted=(1, Beside(128, {"max_tokens": 1})),
            refused=(0, 129, -1, 1.5),
        ),
        Row(
            "prompt_logprobs",
            1,
            lambda case: (
                prompt_logprobs(case.plain) is None
                and len(prompt_logprobs(case.changed)) == case.changed.num_prompt_tokens
            ),
            accepted=(0, 20),
            refused=(-1, 21, True, Beside(1, {"stream": True})),
        ),
    ]


def prompt_logprobs(answer: Answer) -> Any:
    """Of a chat, or of a prompt's first choice."""
    return answer.last.get("prompt_logprobs") or answer.choices[0].get("prompt_logprobs")


def unserved_rows() -> list[Row]:
    return [
        unsupported("adapter_id", "mine"),
        unsupported("guided_choice", ["a"]),
        unsupported("guided_grammar", "root ::= x"),
        unsupported("guided_json", {}),
        unsupported("guided_regex", "a"),
        unsupported("length_penalty", 1.5, 1.0),
        unsupported("response_format", {"type": "json_object"}, {"type": "text"}),
        unsupported("service_tier", "flex", "auto", "default"),
        unsupported("spaces_between_special_tokens", False, True),
        unsupported("store", True, False),
        unsupported("truncate_prompt_tokens", 5),
        unsupported("use_beam_search", True, False),
        without_effect("metadata", {"a": "b"}),
        without_effect("prompt_cache_key", "a"),
        without_effect("prompt_cache_options", {}),
        without_effect("prompt_cache_retention", "24h"),
        without_effect("safety_identifier", "a"),
        without_effect("user", "a"),
    ]


def shared_rows(repeating: dict[str, Any]) -> list[Row]:
    return [*sampling_rows(repeating), *end_rows(), *answer_rows(), *unserved_rows()]


def briefly(rows: list[Row]) -> list[Row]:
    """What changes nothing changes nothing of one token."""
    return [replace(row, beside=SHORT | row.beside) if row.seen is same else row for row in rows]


def completion_rows() -> list[Row]:
    return [
        Row(
            "prompt",
            ["The capital of Italy is", [504, 3575]],
            lambda case: len(case.changed.choices) == 2 and another_text(case),
            accepted=([0], ["a"] * 4),
            refused=("", None, [], 5, ["a"] * 5, [VOCABULARY], ["a", 5], [[]]),
        ),
        length_row("max_tokens", Beside(0, {"echo": True})),
        length_row("max_completion_tokens", Beside(0, {"echo": True})),
        Row("echo", True, lambda case: case.changed.text == PROMPT + case.plain.text, default=False, refused=(1, "x")),
        Row(
            "best_of",
            2,
            lambda case: len(case.changed.choices) == 1 and case.changed.num_tokens == 2 * case.plain.num_tokens,
            accepted=(1, Beside(128, {"max_tokens": 1})),
            refused=(0, 129, -1, "x", Beside(1, {"n": 2}), Beside(2, {"stream": True})),
        ),
        Row(
            "logprobs",
            2,
            lambda case: [len(top) for top in case.changed.choices[0]["logprobs"]["top_logprobs"]] == [2] * 8,
            accepted=(0, 5),
            refused=(6, -1, True),
        ),
        # The tokenizer adds a token before a text by default.
        Row(
            "add_special_tokens",
            False,
            lambda case: case.changed.num_prompt_tokens == case.plain.num_prompt_tokens - 1,
            default=True,
            refused=(1, "x"),
        ),
        unsupported("grammar", {"type": "regex", "value": "a"}),
        unsupported("suffix", "x", ""),
        *shared_rows({"prompt": REPEATING}),
    ]


def chat_rows() -> list[Row]:
    repeating = {
        "messages": [{"role": "user", "content": f"Go on: {REPEATING}"}, {"role": "assistant", "content": REPEATING}]
    }
    return [
        *conversation_rows(lambda case: case.changed.num_prompt_tokens != case.plain.num_prompt_tokens),
        length_row("max_tokens", 1),
        length_row("max_completion_tokens", 1),
        Row(
            "logprobs",
            True,
            lambda case: case.plain.choices[0]["logprobs"] is None and len(logprobs(case.changed)) == 8,
            default=False,
            refused=(1, "x"),
        ),
        Row(
            "top_logprobs",
            2,
            lambda case: {len(token["top_logprobs"]) for token in logprobs(case.changed)} == {2},
            default=0,
            accepted=(0, 20),
            refused=(21, -1, "x", Beside(2, {"logprobs": False})),
            beside={"logprobs": True},
        ),
        unsupported("audio", {}),
        unsupported("function_call", {"name": "f"}, "auto", "none"),
        unsupported("functions", [{"name": "f"}], [], {}),
        unsupported("modalities", ["audio"], ["text"]),
        unsupported("moderation", {}),
        unsupported("prediction", {"type": "content", "content": "a"}),
        unsupported("reasoning_effort", "low"),
        unsupported("tool_choice", "required", "auto", "none"),
        unsupported("tools", [{"type": "function", "function": {"name": "f"}}], [], {}),
        unsupported("verbosity", "low", "medium"),
        unsupported("web_search_options", {}),
        without_effect("parallel_tool_calls", True),
        without_effect("tool_prompt", "a"),
        *shared_rows(repeating),
    ]


def logprobs(answer: Answer) -> list[Any]:
    return answer.choices[0]["logprobs"]["content"]


def conversation_rows(changes_the_prompt: Any) -> list[Row]:
    """What makes a prompt of a chat."""
    assistant = {"messages": CONTINUED}
    return [
        Row(
            "messages",
            [
                {"role": "system", "content": [{"type": "text", "text": "Say no"}, {"type": "text", "text": "."}]},
                *MESSAGES,
            ],
            changes_the_prompt,
            accepted=([{"role": "developer", "content": "a"}], [{"role": "assistant", "content": None}]),
            refused=(
                None,
                [],
                "x",
                [{"role": "king", "content": "a"}],
                [{"role": "user"}],
                [{"role": "tool", "content": "a"}],
            ),
        ),
        Row("add_generation_prompt", False, changes_the_prompt, default=True, refused=(1, "x")),
        Row(
            "continue_final_message",
            False,
            changes_the_prompt,
            default=True,
            refused=(1, "x", Beside(True, {"messages": MESSAGES}), Beside(True, {"add_generation_prompt": True})),
            beside=assistant,
        ),
        Row("chat_template_kwargs", {"mood": "brief"}, changes_the_prompt, default={}, refused=(5, "x", [])),
        # The template writes them itself, so by default the tokenizer adds none.
        Row("add_special_tokens", True, changes_the_prompt, default=False, refused=(1, "x")),
    ]


ROUTES = {
    "/v1/completions": Route({"prompt": PROMPT, **GREEDY}, SHORT, False, briefly(completion_rows())),
    "/v1/chat/completions": Route({"messages": MESSAGES, **GREEDY}, SHORT, False, briefly(chat_rows())),
    "/chat_tokenize": Route(
        {"messages": MESSAGES, **GREEDY},
        SHORT,
        True,
        checked_only(chat_rows(), conversation_rows(lambda case: case.plain.content != case.changed.content)),
    ),
}
