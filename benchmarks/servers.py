"""Servers as child processes: started, waited for until their first token, and ended with all that they started."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_TIMEOUT_S = 900
POLL_S = 0.02
LOG_LINES = 15


class ServerError(RuntimeError):
    """A server ended, or gave no token, before it could be measured."""


@dataclasses.dataclass(frozen=True)
class Server:
    """A running server, the process that all of its others descend from, and seconds from its start to a token."""

    url: str
    pid: int
    first_token_s: float


def seconds_to_import_torch() -> float:
    """Seconds that `python -c "import torch"` takes, from start to end: what no server with torch starts below."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - start


def free_port() -> int:
    """Ask the system for a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], port: int, model: str, log: Path
) -> Iterator[Server]:
    """Run a server that will listen on `port`; yield it when it has answered `/v1/completions` with a token.

    Raises: ServerError, with the end of its log, if it ends before or takes longer than `START_TIMEOUT_S`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_token(url, model, process, log)
        yield Server(url, process.pid, time.perf_counter() - start)
    finally:
        end(process)


def wait_for_token(url: str, model: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask for one token until one comes. Raises: ServerError as `running`."""
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"content-type": "application/json"})
    deadline = time.monotonic() + START_TIMEOUT_S
    answer = "nothing"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"ended with status {process.returncode} before it was ready:\n{tail(log)}")
        try:
            with urllib.request.urlopen(request, timeout=START_TIMEOUT_S):
                return
        except urllib.error.HTTPError as error:
            answer = f"status {error.code}: {error.read(300)!r}"
        except OSError as error:
            answer = str(error)
        time.sleep(POLL_S)
    raise ServerError(f"no token within {START_TIMEOUT_S} s, the last answer was {answer}:\n{tail(log)}")


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server and whatever it started: it leads a process group of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            print(f"`{process.args!r}` does not end by {number.name}", file=sys.stderr)
    process.wait()
