"""What the tables of `test_fields.py` are made of: rows, routes, and answers as rows look at them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

PROMPT = "The capital of France is"
REPEATING = "one two one two one two one two one"
VOCABULARY = 49152
START, END = 1, 2
"""Ids of the special tokens `<|im_start|>` and `<|im_end|>`; generating the second ends a text."""
ABSENT = object()
"""Of a row without a default that could be sent."""


@dataclass(frozen=True)
class Beside:
    """A value of a field that needs others beside it."""

    value: Any
    fields: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What came back, whole or as a stream."""

    status: int
    headers: dict[str, str]
    content: bytes

    def taken(self) -> Answer:
        assert self.status == 200, self.content
        return self

    @property
    def streams(self) -> bool:
        return self.headers["content-type"] == "text/event-stream"

    @property
    def parts(self) -> list[Any]:
        """The whole answer alone, or the events of a stream but `[DONE]`."""
        if not self.streams:
            whole = json.loads(self.content)
            return whole if isinstance(whole, list) else [whole]
        lines = self.content.decode().splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]

    @property
    def last(self) -> Any:
        return self.parts[-1]

    @property
    def choices(self) -> list[Any]:
        return [choice for part in self.parts for choice in part["choices"]]

    @property
    def text(self) -> str:
        """The generated text; of several choices, the first's."""
        if "choices" not in self.last:
            return self.last["generated_text"]
        texts = (
            choice.get("message") or choice.get("delta") or choice for choice in self.choices if not choice["index"]
        )
        return "".join(part["content"] if "content" in part else part["text"] for part in texts)

    @property
    def details(self) -> Any:
        return self.last["details"]

    @property
    def num_prompt_tokens(self) -> int:
        if "usage" in self.last:
            return self.last["usage"]["prompt_tokens"]
        return self.details["input_length"] if self.streams else int(self.headers["x-prompt-tokens"])

    @property
    def num_tokens(self) -> int:
        if "usage" in self.last:
            return self.last["usage"]["completion_tokens"]
        return len(self.parts) if self.streams else int(self.headers["x-generated-tokens"])

    @property
    def finish_reason(self) -> str:
        return self.choices[-1]["finish_reason"] if "choices" in self.last else self.details["finish_reason"]

    def comparable(self) -> Any:
        """All of it but what no two answers share."""
        return without(self.parts, {"id", "created", "cached_tokens"})


def without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: without(inner, keys) for key, inner in value.items() if key not in keys}
    return [without(inner, keys) for inner in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Case:
    """Answers to a request without a field and with it, and to the route's own, which takes the best tokens."""

    plain: Answer
    changed: Answer
    greedy: Answer


Seen = Callable[[Case], bool]
Limit = Callable[[dict[str, Any], Answer], int]


def same(case: Case) -> bool:
    """Nothing is seen, as it should be."""
    return case.plain.comparable() == case.changed.comparable()


def another_text(case: Case) -> bool:
    return case.plain.text != case.changed.text


def becomes_greedy(case: Case) -> bool:
    """Sampling is left no choice."""
    return case.plain.text != case.changed.text == case.greedy.text


@dataclass(frozen=True)
class Row:
    """One field: a value and how its effect is seen, the default, values at the limits, values beyond or wrong.

    A value may be a function of `/info` and the plain answer.
    """

    name: str
    value: Any
    seen: Seen
    default: Any = ABSENT
    accepted: tuple[Any | Limit, ...] = ()
    refused: tuple[Any | Limit, ...] = ()
    beside: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """A route: the request that its rows change, what keeps its answer short, and whether its errors are TGI's."""

    base: dict[str, Any]
    short: dict[str, Any]
    is_native: bool
    rows: list[Row]

    def body(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Give the request with these fields set; a dot leads into an object."""
        body = copy.deepcopy(self.base)
        for name, value in fields.items():
            inner = body
            *path, leaf = name.split(".")
            for step in path:
                inner = inner.setdefault(step, {})
            inner[leaf] = value
        return body


def unsupported(name: str, refused: Any, *neutral: Any) -> Row:
    """A field that only what changes nothing is accepted for."""
    return Row(name, None, same, accepted=neutral, refused=(refused,))


def without_effect(name: str, value: Any) -> Row:
    return Row(name, value, same)


def room(info: dict[str, Any], plain: Answer) -> int:
    """How many tokens may be generated after this answer's prompt."""
    return info["max_total_tokens"] - plain.num_prompt_tokens


def stream_row(seen: Seen) -> Row:
    return Row("stream", True, seen, default=False, accepted=(False, True), refused=("x", 1))


def streams_the_same(case: Case) -> bool:
    return case.changed.streams and not case.plain.streams and case.changed.text == case.plain.text


def checked_only(rows: list[Row], shown: list[Row]) -> list[Row]:
    """Give the rows of a route that generates nothing: what is not among `shown` is checked and changes nothing.

    Bounds on generated tokens that depend on the prompt's length are checked where something is generated.
    """
    names = {row.name for row in shown}
    others = (row for row in rows if row.name not in names)
    return [
        *shown,
        *(replace(row, seen=same, accepted=fixed(row.accepted), refused=fixed(row.refused)) for row in others),
    ]


def fixed(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value for value in values if not callable(value.value if isinstance(value, Beside) else value))
