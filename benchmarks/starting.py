"""How fast our server starts and comes back, and what memory it takes; prints seconds, MiB and ratios.

In each round, in turn: `python -c "import torch"`; our server from its process's start to its first token;
and from a worker's SIGKILL under a stream to that stream's next token. In the first round a load follows, and the Pss
of each process is listed by kind of memory. Usage:
    python benchmarks/starting.py [--rounds 5] [--model FILE] [--output results.json] [-- FLAGS OF forebay serve]
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from loads import LOADS, Generator
from memory import KINDS, descendants, name_of, pss_by_kind_mib, pss_of_bare_torch_mib
from peers import CACHE, IGNORE_EOS, bundled_model, forebay
from servers import START_TIMEOUT_S, Server, free_port, running, seconds_to_import_torch

WORKER = "forebay-worker"
STREAM_TOKENS = 300
TOKENS_BEFORE_KILL = 20
SECONDS_A_LOAD = 5.0


def token_moments(url: str, max_tokens: int) -> Iterator[float]:
    """Stream one answer; yield when each piece of it came."""
    body = {
        "model": "tgi",
        "messages": [{"role": "user", "content": "Write about rivers."}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
    }
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=START_TIMEOUT_S)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        connection.close()
        raise ConnectionError(f"status {response.status}")
    for line in response:
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
            yield time.monotonic()
    connection.close()


def seconds_to_come_back(server: Server) -> float:
    """From a worker's SIGKILL in the middle of a stream to that stream's next token, less what was on its way."""
    moments: list[float] = []
    killed = 0.0
    for moment in token_moments(server.url, STREAM_TOKENS):
        moments.append(moment)
        if len(moments) == TOKENS_BEFORE_KILL:
            worker = next(pid for pid in descendants(server.pid) if name_of(pid) == WORKER)
            killed = time.monotonic()
            os.kill(worker, signal.SIGKILL)
    resumed = max(itertools.pairwise(moments), key=lambda pair: pair[1] - pair[0])[1]
    return resumed - killed


def print_memory(server: Server, bare_torch_mib: float) -> dict[str, dict[str, float]]:
    """Print the Pss of each process by kind of memory, and the sum beside a bare `import torch`."""
    found = {f"{name_of(pid)} {pid}": pss_by_kind_mib(pid) for pid in [server.pid, *descendants(server.pid)]}
    print(f"{'Pss after the load, MiB':30}" + "".join(f"{kind:>11}" for kind in (*KINDS, "all")))
    for name, kinds in found.items():
        print(f"{name:30}" + "".join(f"{kinds[kind]:11.0f}" for kind in KINDS) + f"{sum(kinds.values()):11.0f}")
    total = sum(sum(kinds.values()) for kinds in found.values())
    print(
        f"all together {total:.0f} MiB, a bare `import torch` {bare_torch_mib:.0f} MiB: {total - bare_torch_mib:+.0f}"
    )
    return found


def main() -> None:
    """Run the rounds, print medians, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, default=None, help="a GGUF file; the bundled one by default")
    parser.add_argument("--output", type=Path, default=None, help="where to write JSON")
    parser.add_argument("flags", nargs="*", help="further flags of `forebay serve`, behind --")
    arguments = parser.parse_args()
    model = arguments.model or bundled_model()

    names = ("import torch", "start to first token", "kill to next token")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory: dict[str, dict[str, float]] = {}
    bare_torch_mib = pss_of_bare_torch_mib()
    for round_number in range(arguments.rounds):
        seconds["import torch"].append(seconds_to_import_torch())
        port = free_port()
        with running(forebay(model, port, *arguments.flags), {}, port, "any", CACHE / "logs/starting.log") as server:
            seconds["start to first token"].append(server.first_token_s)
            seconds["kill to next token"].append(seconds_to_come_back(server))
            if round_number == 0:
                for number, load in enumerate(LOADS):
                    Generator(server.url, IGNORE_EOS, SECONDS_A_LOAD, number).run(load)
                memory = print_memory(server, bare_torch_mib)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        relative = f", {median - medians['import torch']:+.2f} s against `import torch`"
        print(f"{name:22}{median:6.2f} s (least {min(seconds[name]):.2f}){relative}")
    if arguments.output:
        record = {"medians": medians, "seconds": seconds, "pss_mib": memory, "bare_torch_mib": bare_torch_mib}
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
