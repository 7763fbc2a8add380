"""The loads, each a run of `forebay bench` (or two at once), and the figure that is read from its results."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOREBAY = ROOT / ".venv/bin/forebay"
SHORT, LONG = 12, 1450
"""Tokens of a prompt."""
SHARED_TOKENS = 1100
FINISH_TIMEOUT_S = 300

Run = dict[str, Any]


class LoadError(RuntimeError):
    """A load that brought no figure: requests failed, or answers had another length than was asked for."""


class GivenUpError(RuntimeError):
    """A server that is so far behind that measuring it further would only tell the same."""


@dataclasses.dataclass(frozen=True)
class Load:
    """A named load: the generator's flags, and the figure of interest."""

    name: str
    unit: str
    flags: Sequence[str]
    figure: Callable[[Run], float]
    higher_is_better: bool = True
    beside: Sequence[str] = ()
    """Flags of a second generator that runs meanwhile and whose results nobody looks at."""


def output_tokens_per_s(run: Run) -> float:
    """Output tokens of all streams that came within the window, a second of it."""
    return float(run["throughput"]["output_tokens_per_s"])


def total_tokens_per_s(run: Run) -> float:
    """The same with the prompts' tokens."""
    if run["throughput"]["total_tokens_per_s"] is None:
        raise LoadError("answers came without the prompt's number of tokens")
    return float(run["throughput"]["total_tokens_per_s"])


def percentile(metric: str, which: str) -> Callable[[Run], float]:
    """Read a latency in milliseconds."""
    return lambda run: float(run[f"{metric}_ms"][which])


def asks(input_tokens: int, output_tokens: int, *more: str) -> tuple[str, ...]:
    """Flags for prompts of random words, a token each."""
    return ("--input-tokens", str(input_tokens), "--output-tokens", str(output_tokens), *more)


def closed(num_streams: int, input_tokens: int, output_tokens: int, *more: str) -> tuple[str, ...]:
    """Flags for streams that each send their next request when their last has ended."""
    return asks(input_tokens, output_tokens, "--concurrency", str(num_streams), *more)


SHARED = ("--shared-prefix", f"{SHARED_TOKENS / (SHARED_TOKENS + SHORT):.6f}")
A_SECOND = ("--rate", "1", "--arrivals", "constant")

LOADS = (
    Load("1 stream", "output tokens/s", closed(1, SHORT, 128), output_tokens_per_s),
    Load("8 streams", "output tokens/s", closed(8, SHORT, 128), output_tokens_per_s),
    Load("32 streams", "output tokens/s", closed(32, SHORT, 128), output_tokens_per_s),
    Load("long prompt", "ms to first token", closed(1, LONG, 4), percentile("ttft", "p50"), higher_is_better=False),
    Load("8 long prompts", "total tokens/s", closed(8, LONG, 16), total_tokens_per_s),
    Load(
        "8 streams, shared prefix",
        "output tokens/s",
        closed(8, SHARED_TOKENS + SHORT, 128, *SHARED),
        output_tokens_per_s,
    ),
    Load(
        "8 streams, quiet",
        "ms between tokens, median",
        closed(8, SHORT, 512),
        percentile("itl", "p50"),
        higher_is_better=False,
    ),
    # Last, for what is left of the second generator's requests is cancelled.
    Load(
        "8 streams, a long prompt a second",
        "ms between tokens, p99",
        closed(8, SHORT, 512),
        percentile("itl", "p99"),
        higher_is_better=False,
        beside=asks(LONG, 4, *A_SECOND),
    ),
)


@dataclasses.dataclass(frozen=True)
class Generator:
    """How one server is asked."""

    url: str
    flags: Sequence[str]
    """Its model's name, and how its end token is ignored."""
    seconds: float
    seed: int

    def run(self, load: Load) -> Run:
        """Run a load; returns its results as `docs/reference/bench.md` explains them.

        Raises: LoadError, or GivenUpError if it does not end.
        """
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder) / "results.json"
            beside = self._start(load.beside, results.with_name("beside.json"), 1) if load.beside else None
            try:
                measured = self._start(load.flags, results, 0)
                try:
                    _, errors = measured.communicate(timeout=self.seconds + FINISH_TIMEOUT_S)
                except subprocess.TimeoutExpired as error:
                    measured.kill()
                    measured.communicate()
                    raise GivenUpError(
                        f"{load.name}: not over {FINISH_TIMEOUT_S} s after its end; the rest was left out"
                    ) from error
            finally:
                if beside is not None:
                    beside.terminate()
                    beside.communicate()
            if not results.is_file():
                raise LoadError(errors.strip())
            return checked(json.loads(results.read_text())["runs"][0], load)

    def _start(self, flags: Sequence[str], results: Path, number: int) -> subprocess.Popen[str]:
        command = [
            str(FOREBAY), "bench", "--url", self.url, "--api", "completions", *self.flags, *flags, "--quiet",
            "--duration", str(self.seconds), "--seed", str(10 * self.seed + number), "--json", str(results),
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def checked(run: Run, load: Load) -> Run:
    """Hand on a run whose figures are comparable.

    Raises: LoadError if requests failed, none ended, or an answer had another length than was asked for.
    """
    if run["failures"]["count"]:
        classes = run["failures"]["classes"].items()
        raise LoadError(
            "; ".join(f"{kind['count']} requests failed, {name}: {kind['first']}" for name, kind in classes)
        )
    if not run["num_ended"]:
        raise LoadError("no request ended")
    if run["tokens"]["num_counted_by_server"] < run["num_ended"]:
        raise LoadError("answers came without `usage`")
    each = int(load.flags[load.flags.index("--output-tokens") + 1])
    if run["tokens"]["output"] != each * run["num_ended"]:
        raise LoadError(f"{run['num_ended']} answers have {run['tokens']['output']} tokens, not {each} each")
    return run
