"""What long prompts do to streams that decode: inter-token latency, quiet and while a prompt arrives every second.

Starts our server with each setting of `--target-inter-token-ms` in turn, several rounds, and prints medians over
rounds. `0` is no bound: chunks as large as a step may be. Usage:
    python benchmarks/arrivals.py [--rounds 3] [--seconds 15] [--streams 8] [--settings default,0] [--output r.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import servers
from peers import CACHE, bundled_model, forebay

PROMPT_WORDS = 1415  # about 1,450 tokens
STREAM_TOKENS = 480
ARRIVAL_TOKENS = 8
WORDS = "river stone market lantern quiet harbour engine winter letter garden signal copper window thunder".split()


@dataclasses.dataclass(frozen=True)
class Figures:
    """One round of one setting. Seconds."""

    quiet_p50: float
    quiet_p99: float
    busy_p50: float
    busy_p99: float
    first_token_p50: float
    first_token_max: float
    decoded_per_s: float

    @property
    def p99_in_quiet_medians(self) -> float:
        """How many quiet medians the 99th percentile under arrivals takes."""
        return self.busy_p99 / self.quiet_p50


def words(count: int, seed: int) -> str:
    """Make a text of `count` words that differs from its first byte for every seed."""
    return " ".join([f"{seed}", *random.Random(seed).choices(WORDS, k=count)])


def token_times(address: str, prompt: str, max_tokens: int) -> Iterator[float]:
    """Send one streamed request; yield the time of each token's event as it comes.

    Raises: RuntimeError if the status is not 200 or the stream holds an error.
    """
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    connection = http.client.HTTPConnection(address, timeout=600)
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {response.read()[:500]!r}")
    for line in response:
        if line.startswith(b"data: {"):
            if b'"choices"' not in line:
                raise RuntimeError(f"the stream broke: {line!r}")
            if b'"finish_reason":null' in line:
                yield time.perf_counter()
    connection.close()


class Load:
    """Streams that decode without end, and prompts that arrive beside them; stopped by `stop`."""

    def __init__(self, address: str, num_streams: int, seed: int) -> None:
        """Start the streams."""
        self.gaps: list[tuple[float, float]] = []
        self.first_tokens: list[float] = []
        self.failures: list[Exception] = []
        self._address = address
        self._seed = seed
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        for stream in range(num_streams):
            self._start(self._stream, stream)

    def _start(self, work: Callable[[int], None], number: int) -> None:
        def guarded() -> None:
            try:
                work(number)
            except (RuntimeError, OSError) as error:
                self.failures.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        self._threads.append(thread)

    def _stream(self, stream: int) -> None:
        turn = 0
        while not self._stopped.is_set():
            turn += 1
            last = None
            for now in token_times(self._address, words(12, self._seed + 97 * stream + turn), STREAM_TOKENS):
                if last is not None:
                    self.gaps.append((now, now - last))
                last = now
                if self._stopped.is_set():
                    return

    def _prompt(self, number: int) -> None:
        start = time.perf_counter()
        times = token_times(self._address, words(PROMPT_WORDS, self._seed + 10_000 + number), ARRIVAL_TOKENS)
        self.first_tokens.append(next(times) - start)
        for _ in times:
            pass

    def arrive(self, seconds: float) -> None:
        """Send a long prompt every second, for so long."""
        start = time.perf_counter()
        for number in range(int(seconds)):
            time.sleep(max(0.0, start + number - time.perf_counter()))
            self._start(self._prompt, number)
        time.sleep(max(0.0, start + seconds - time.perf_counter()))

    def gaps_between(self, start: float, end: float) -> list[float]:
        """Answer the seconds between tokens that came from `start` to `end`."""
        return [gap for at, gap in self.gaps if start <= at < end]

    def stop(self) -> None:
        """End everything; raise what went wrong."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if self.failures:
            raise self.failures[0]


def percentile(values: Sequence[float], share: float) -> float:
    """Answer the smallest value that so many of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(address: str, num_streams: int, seconds: float, seed: int) -> Figures:
    """Measure one server: so long quiet, then so long with a prompt a second."""
    load = Load(address, num_streams, seed)
    try:
        time.sleep(3)
        quiet_from = time.perf_counter()
        time.sleep(seconds)
        busy_from = time.perf_counter()
        load.arrive(seconds)
        busy_to = time.perf_counter()
    finally:
        load.stop()
    quiet = load.gaps_between(quiet_from, busy_from)
    busy = load.gaps_between(busy_from, busy_to)
    return Figures(
        quiet_p50=percentile(quiet, 0.5),
        quiet_p99=percentile(quiet, 0.99),
        busy_p50=percentile(busy, 0.5),
        busy_p99=percentile(busy, 0.99),
        first_token_p50=percentile(load.first_tokens, 0.5),
        first_token_max=max(load.first_tokens),
        decoded_per_s=len(busy) / (busy_to - busy_from),
    )


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="a GGUF file; the bundled model by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--settings", default="default,0", help="values of --target-inter-token-ms, `default` for none")
    parser.add_argument("--output", type=Path, default=None, help="write every figure here as JSON")
    arguments = parser.parse_args()
    model = arguments.model or bundled_model()
    results: dict[str, list[Figures]] = {setting: [] for setting in arguments.settings.split(",")}
    for round_number in range(arguments.rounds):
        for setting, figures in results.items():
            flags = [] if setting == "default" else ["--target-inter-token-ms", setting]
            port = servers.free_port()
            command = forebay(model, port, *flags)
            with servers.running(command, {}, port, "any", CACHE / "logs/arrivals.log"):
                seed = 100_000 * round_number
                figures.append(measure(f"127.0.0.1:{port}", arguments.streams, arguments.seconds, seed))
    print(f"{arguments.streams} streams; a prompt of about 1,450 tokens each second; milliseconds between tokens")
    print(
        f"{'target':>8} {'quiet p50':>10} {'p99':>7} {'busy p50':>9} {'p99':>7} {'p99/quiet p50':>14} "
        f"{'first token p50':>16} {'max':>6} {'tokens/s':>9}"
    )
    for setting, figures in results.items():
        middle = {
            field.name: statistics.median(getattr(one, field.name) for one in figures)
            for field in dataclasses.fields(Figures)
        }
        ratio = statistics.median(one.p99_in_quiet_medians for one in figures)
        print(
            f"{setting:>8} {middle['quiet_p50'] * 1e3:>10.1f} {middle['quiet_p99'] * 1e3:>7.1f} "
            f"{middle['busy_p50'] * 1e3:>9.1f} {middle['busy_p99'] * 1e3:>7.1f} {ratio:>14.2f} "
            f"{middle['first_token_p50']:>14.2f} s {middle['first_token_max']:>6.2f} {middle['decoded_per_s']:>9.0f}"
        )
    if arguments.output is not None:
        written = {setting: [dataclasses.asdict(one) for one in figures] for setting, figures in results.items()}
        arguments.output.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
