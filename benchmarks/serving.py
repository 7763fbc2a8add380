"""Ours and its peers in turn, on the same weights, under the same loads of `forebay bench`; prints ratios.

Rounds alternate between the servers, every figure is the median over rounds, and of each peer the best of its settings
counts in each load. What cannot be measured is told with its reason.

    python benchmarks/serving.py [--peers llama.cpp,vllm,transformers] [--rounds 3] [--seconds 10] [--only LOAD]
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import servers
from loads import LOADS, Generator, GivenUpError, Load, LoadError
from machine import describe
from memory import pss_mib, pss_of_bare_torch_mib
from peers import CACHE, GGUF, ROOT, SERVERS, AbsentError, Server, Setting, model_in
from tables import markdown

START = "start to first token"
MEMORY = "memory after the loads"
RESULTS = ROOT / "benchmarks/results"


@dataclasses.dataclass
class Contender:
    """A server with one of its settings, and what was measured of it."""

    server: Server
    setting: Setting
    python: Path
    model: Path
    figures: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)

    def note(self, name: str, figure: float) -> None:
        """Keep a figure of this round."""
        print(f"  {name}: {figure:.2f}", file=sys.stderr)
        self.figures.setdefault(name, []).append(figure)

    def fail(self, name: str, reason: Exception) -> None:
        """Keep why there is no figure."""
        print(f"  {name}: {reason}", file=sys.stderr)
        self.failures[name] = str(reason)

    def measure(self, loads: Sequence[Load], seconds: float, round_number: int) -> None:
        """Start it, run every load, and end it."""
        print(f"==> round {round_number + 1}: {self.server.name}, {self.setting.words}", file=sys.stderr)
        port, model = servers.free_port(), str(self.model)
        command = self.setting.command(self.python, self.model, port)
        log = CACHE / "logs" / f"{self.server.name}.log"
        try:
            with servers.running(command, self.setting.environment, port, model, log) as server:
                self.note(START, server.first_token_s)
                flags = ["--model", model, *self.setting.flags]
                for number, load in enumerate(loads):
                    seed = round_number * len(LOADS) + number
                    try:
                        run = Generator(server.url, flags, seconds, seed).run(load)
                        self.note(load.name, load.figure(run))
                    except LoadError as error:
                        self.fail(load.name, error)
                self.note(MEMORY, pss_mib(server.pid))
        except (servers.ServerError, GivenUpError, OSError) as error:
            self.fail(START if START not in self.figures else MEMORY, error)

    def record(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "server": self.server.name,
            "version": self.server.version(),
            "setting": self.setting.words,
            "figures": self.figures,
            "failures": self.failures,
        }


def contenders(names: Sequence[str], gguf: Path | None) -> tuple[list[Contender], dict[str, str]]:
    """Ours and the named peers, installed, with their models; and of those that are not to be had here, why."""
    found, absent = [], {}
    for server in SERVERS:
        if server.name not in ("forebay", *names):
            continue
        for setting in server.settings:
            try:
                found.append(Contender(server, setting, server.python(), model_in(setting.form, gguf)))
            except AbsentError as error:
                print(f"{server.name}, {setting.words}, is not measured: {error}", file=sys.stderr)
                absent[f"{server.name}, {setting.words},"] = str(error)
    return found, absent


def commit() -> str:
    """Which state of the repository this is; with a mark when files differ from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() or "unknown"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="llama.cpp", help="names separated by commas; empty for ours alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--model", type=Path, help="a GGUF file; the bundled one by default")
    parser.add_argument("--only", action="append", choices=[load.name for load in LOADS], help="a load; repeatable")
    parser.add_argument("--output", type=Path, help="where to write JSON; `results` names it by date and machine")
    return parser.parse_args()


def named_peers(names: str) -> list[str]:
    """Peers by their names; none of an empty text, for ours alone. Raises: SystemExit for a name that is none."""
    known = [server.name for server in SERVERS if server.requirements]
    wanted = [name for name in names.split(",") if name]
    for name in wanted:
        if name not in known:
            raise SystemExit(f"no peer is called `{name}`; there are {', '.join(known)}")
    return wanted


def main() -> None:
    """Run the rounds, write the results, print the table."""
    # As Ctrl-C: servers lead process groups of their own, and are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    arguments = parse_arguments()
    names = named_peers(arguments.peers)
    loads = [load for load in LOADS if load.name in (arguments.only or [load.name])]
    field, absent = contenders(names, arguments.model)
    torch: dict[str, list[float]] = {"start_s": [], "memory_mib": []}
    for round_number in range(arguments.rounds):
        torch["start_s"].append(servers.seconds_to_import_torch())
        torch["memory_mib"].append(pss_of_bare_torch_mib())
        for contender in field:
            contender.measure(loads, arguments.seconds, round_number)
    results = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "machine": describe(),
        "model": model_in(GGUF, arguments.model).name,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "loads": {
            **{load.name: {"unit": load.unit, "higher_is_better": load.higher_is_better} for load in loads},
            START: {"unit": "s", "higher_is_better": False},
            MEMORY: {"unit": "MiB (Pss)", "higher_is_better": False},
        },
        "import_torch": torch,
        "contenders": [contender.record() for contender in field],
        "absent": absent,
    }
    print(markdown(results))
    if arguments.output:
        path = arguments.output
        if path == Path("results"):
            slug = re.sub(r"[^a-z0-9]+", "-", results["machine"]["processor"].lower()).strip("-")
            path = RESULTS / f"{results['date']}-{slug}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(f"results are in {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
