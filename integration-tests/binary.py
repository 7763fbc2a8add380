"""Runs the real binary and speaks HTTP to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("FOREBAY_BINARY", ROOT / ".venv/bin/forebay"))
START_TIMEOUT_S = 180


class Server:
    """A running `forebay serve`: where it listens, and the few calls that most tests make."""

    def __init__(self, port: int, process: subprocess.Popen[str], log: Path) -> None:
        self.port = port
        self.process = process
        self.log = log
        self.url = f"http://127.0.0.1:{port}"

    def request(self, method: str, path: str, body: Any = None, timeout: float = 60) -> tuple[int, dict, bytes]:
        """Send one request; return status, lower-case headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"content-type": "application/json"} if payload else {})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        content = response.read()
        connection.close()
        return response.status, headers, content

    def post(self, path: str, body: Any, timeout: float = 60) -> Any:
        """Send JSON, expect 200, return the parsed answer."""
        status, _, content = self.request("POST", path, body, timeout)
        assert status == 200, content
        return json.loads(content)

    def metric(self, name: str) -> float:
        """Read one sample from `/metrics`; `name` holds the labels as they are printed, if any."""
        _, _, content = self.request("GET", "/metrics")
        for line in content.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise KeyError(name)

    def num_losses(self) -> int:
        """Count the worker groups that were lost."""
        return int(self.metric("forebay_worker_group_losses_total"))

    def log_text(self) -> str:
        """Read what the server has logged, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text())

    def worker_pids(self) -> list[int]:
        """List the workers, whether they are the binary's children or a spare process's."""
        return named_descendants(self.process.pid, "forebay-worker")

    def spare_pids(self) -> list[int]:
        """List the processes that workers are forked from."""
        return named_descendants(self.process.pid, "forebay-spare")


def named_descendants(pid: int, name: str) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for child in map(int, children.read_text().split()):
                found += [child] if process_name(child) == name else []
                found += named_descendants(child, name)
    return found


def process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip()
    except OSError:
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_server(log: Path, *arguments: str) -> Iterator[Server]:
    port = free_port()
    command = [str(BINARY), "serve", "--hostname", "127.0.0.1", "--port", str(port), *arguments]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, text=True) as process:
        server = Server(port, process, log)
        try:
            wait_until_ready(server)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert server.process.poll() is None, f"the server ended:\n{server.log.read_text()}"
        with contextlib.suppress(OSError):
            if server.request("GET", "/health", timeout=5)[0] == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(f"not ready within {START_TIMEOUT_S} s:\n{server.log.read_text()}")
