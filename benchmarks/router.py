"""What the router costs: tokens a second, the time that a token spends in it, memory a stream. No model runs.

Starts the release binary over `paced_worker`, which answers every step with arbitrary tokens, and lets `forebay bench`
open streams. Latency is the router's own (`forebay_relay_seconds`: from a step's result, read off the worker's stream,
to its token's event at the socket), the generator's lag stands beside it. Usage:
    python benchmarks/router.py [--cells relay-256,paced-1000,idle-10000] [--seconds 15] [--binary OLD --binary NEW]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import servers
from peers import CACHE, ROOT, bundled_model

WORKER = ROOT / "target/release/examples/paced_worker"
# Of a sequence: what the schedule keeps of blocks is in the memory that is measured.
MAX_TOKENS = 1_024
BUCKET = re.compile(rb'forebay_relay_seconds_bucket\{le="([^"]+)"\} (\d+)')


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number of streams, how many tokens a second each gets (0: as many as it can), and of how many groups."""

    name: str
    num_streams: int
    tokens_per_s: int = 0
    num_groups: int = 1
    ramp_up_s: int = 2


# A step answers all streams of a group at once. Of several groups each has its steps between those of the others.
CELLS = [
    Cell("relay-1", 1),
    Cell("relay-256", 256),
    Cell("paced-1000", 1_000, tokens_per_s=10, num_groups=10),
    Cell("burst-1000", 1_000, tokens_per_s=10),
    Cell("idle-10000", 10_000, tokens_per_s=1, num_groups=100, ramp_up_s=30),
]


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a cell measured. Latencies in milliseconds."""

    tokens_per_s: float
    relay_p50: float
    relay_p99: float
    stream_kib: float
    cores: float
    num_failed: int
    generator_lag_p99: float
    generator_cores: float


def serve_command(binary: Path, port: int, cell: Cell) -> list[str]:
    """Make the command of a server that holds all streams of a cell at once."""
    seats = cell.num_streams // cell.num_groups * 2
    return [
        str(binary), "serve", "--model-id", str(bundled_model()), "--python", str(WORKER), "--hostname", "127.0.0.1",
        "--port", str(port), "--replicas", str(cell.num_groups), "--max-total-tokens", str(MAX_TOKENS),
        "--max-batch-size", str(seats), "--max-batch-prefill-tokens", str(max(4096, 2 * seats)),
        "--max-concurrent-requests", str(cell.num_streams + 64), "--max-connections", str(cell.num_streams + 64),
    ]  # fmt: skip


def environment(cell: Cell) -> dict[str, str]:
    """Variables of the paced workers; the server's Python is one."""
    period = 1_000_000 // cell.tokens_per_s if cell.tokens_per_s else 0
    return {
        "PACED_PYTHON": sys.executable,
        "PACED_STEP_US": str(period),
        "FOREBAY_DISABLE_SPARE_WORKER": "true",
    }


def relay_counts(url: str) -> dict[float, int]:
    """Read the router's histogram: tokens that took no longer than so many seconds."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as response:
        return {float(bound): int(count) for bound, count in BUCKET.findall(response.read())}


def quantile(before: dict[float, int], after: dict[float, int], share: float) -> float:
    """Answer a quantile of what was counted between two readings, linear within a bucket; milliseconds."""
    counts = sorted((bound, count - before.get(bound, 0)) for bound, count in after.items())
    wanted = share * counts[-1][1]
    low_bound, low_count = 0.0, 0
    for bound, count in counts:
        if count >= wanted and count > low_count:
            return 1e3 * (low_bound + (min(bound, 10.0) - low_bound) * (wanted - low_count) / (count - low_count))
        low_bound, low_count = bound, count
    return float("nan")


def resident_kib(pid: int) -> int:
    """Read the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def cpu_seconds(pid: int) -> float:
    """Read how long a process has run on all cores."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(binary: Path, generator: Path, cell: Cell, seconds: int) -> Figures:
    """Run one cell on one server."""
    output_tokens = (seconds + cell.ramp_up_s) * cell.tokens_per_s if cell.tokens_per_s else MAX_TOKENS
    port = servers.free_port()
    command, log = serve_command(binary, port, cell), CACHE / "logs/router.log"
    with (
        servers.running(command, environment(cell), port, "any", log) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        url, pid = server.url, server.pid
        results = Path(folder) / "results.json"
        command = [
            str(generator), "bench", "--url", url, "--api", "completions", "--quiet",
            "--concurrency", str(cell.num_streams), "--ramp-up", str(cell.ramp_up_s), "--duration", str(seconds),
            "--warm-up", "0", "--input-tokens", "8", "--output-tokens", str(min(output_tokens, MAX_TOKENS - 64)),
            "--ignore-eos", "--json", str(results),
        ]  # fmt: skip
        empty_kib = resident_kib(pid)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as load:
            time.sleep(cell.ramp_up_s + 1)
            before, cpu_before, began = relay_counts(url), cpu_seconds(pid), time.perf_counter()
            time.sleep(seconds - 2)
            after, cpu, took = relay_counts(url), cpu_seconds(pid) - cpu_before, time.perf_counter() - began
            full_kib = resident_kib(pid)
            said, _ = load.communicate()
        if not results.exists():
            raise RuntimeError(f"the generator measured nothing: {said}")
        run = json.loads(results.read_text(encoding="utf-8"))["runs"][0]
    counted = max(after.values()) - max(before.values(), default=0)
    return Figures(
        tokens_per_s=counted / took,
        relay_p50=quantile(before, after, 0.5),
        relay_p99=quantile(before, after, 0.99),
        stream_kib=(full_kib - empty_kib) / cell.num_streams,
        cores=cpu / took,
        num_failed=run["failures"]["count"],
        generator_lag_p99=run["generator"]["event_loop_lag_ms"]["p99"],
        generator_cores=run["generator"]["cpu_share"],
    )


def main() -> None:
    """Run the cells, each with every binary in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(cell.name for cell in CELLS))
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--binary", type=Path, action="append", help="several are compared, in turn")
    parser.add_argument("--output", type=Path, default=None, help="write every figure here as JSON")
    arguments = parser.parse_args()
    binaries = arguments.binary or [ROOT / "target/release/forebay"]
    cells = [cell for cell in CELLS if cell.name in arguments.cells.split(",")]
    results: dict[tuple[str, str], list[Figures]] = {}
    for _ in range(arguments.rounds):
        for cell in cells:
            for binary in binaries:
                figures = measure(binary, binaries[-1], cell, arguments.seconds)
                results.setdefault((cell.name, str(binary)), []).append(figures)
    print(
        f"{'cell':<12} {'tokens/s':>9} {'relay p50':>10} {'p99':>8} {'KiB/stream':>11} {'cores':>6} {'failed':>7} "
        f"{'generator lag p99':>18} {'cores':>6}   (milliseconds)"
    )
    for (name, binary), rounds in results.items():
        middle = {
            field.name: statistics.median(getattr(one, field.name) for one in rounds)
            for field in dataclasses.fields(Figures)
        }
        print(
            f"{name:<12} {middle['tokens_per_s']:>9.0f} {middle['relay_p50']:>10.3f} {middle['relay_p99']:>8.3f} "
            f"{middle['stream_kib']:>11.1f} {middle['cores']:>6.2f} {middle['num_failed']:>7.0f} "
            f"{middle['generator_lag_p99']:>18.2f} {middle['generator_cores']:>6.2f}   "
            + (binary if len(binaries) > 1 else "")
        )
    if arguments.output is not None:
        written = [
            {"cell": name, "binary": binary, "rounds": [dataclasses.asdict(one) for one in rounds]}
            for (name, binary), rounds in results.items()
        ]
        arguments.output.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
