"""A closed-loop load on `/v1/chat/completions`: a thread a stream, plain sockets, server-sent events."""

from __future__ import annotations

import dataclasses
import http.client
import json
import threading
import time
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Answer:
    """One finished request: counts from `usage`, seconds since it was sent."""

    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    total_s: float


@dataclasses.dataclass(frozen=True)
class LoadResult:
    """What one load measured: wall seconds from the first request sent to the last finished."""

    answers: list[Answer]
    wall_s: float

    @property
    def output_tokens_per_s(self) -> float:
        """Generated tokens of all streams over the wall time."""
        return sum(answer.completion_tokens for answer in self.answers) / self.wall_s

    @property
    def first_token_s(self) -> float:
        """Median time to the first piece of text."""
        times = sorted(answer.first_token_s for answer in self.answers)
        return times[len(times) // 2]


def chat(address: str, prompt: str, max_tokens: int) -> Answer:
    """Send one streamed greedy chat request and read it to its end.

    Raises: RuntimeError if the status is not 200, the stream holds an error, or `usage` never comes.
    """
    body: dict[str, Any] = {
        "model": "tgi",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = http.client.HTTPConnection(address, timeout=600)
    start = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {response.read()[:500]!r}")
    first = None
    usage = None
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(f"the stream broke: {event['error']}")
        usage = event.get("usage") or usage
        if first is None and any(choice["delta"].get("content") for choice in event["choices"]):
            first = time.perf_counter()
    end = time.perf_counter()
    connection.close()
    if usage is None:
        raise RuntimeError("the stream ended without `usage`")
    return Answer(usage["prompt_tokens"], usage["completion_tokens"], (first or end) - start, end - start)


def closed_loop(address: str, streams: Sequence[Sequence[str]], max_tokens: int) -> LoadResult:
    """Run each stream's prompts one after another, all streams side by side."""
    answers: list[Answer] = []
    failures: list[Exception] = []

    def run(prompts: Sequence[str]) -> None:
        try:
            for prompt in prompts:
                answers.append(chat(address, prompt, max_tokens))
        except (RuntimeError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(prompts,)) for prompts in streams]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return LoadResult(answers, time.perf_counter() - start)
