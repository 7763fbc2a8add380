"""The real server and real texts, for checks of what it answers."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / ".venv/bin/forebay"
FLOAT32_FOLDER = ROOT / ".cache/smollm2-float32"
START_TIMEOUT_S = 180


@dataclasses.dataclass(frozen=True)
class RealServer:
    """A running `forebay serve`."""

    port: int
    pid: int

    def call(self, method: str, path: str, body: object = None) -> bytes:
        """Send one request; return the body. Exits unless the status is 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        with contextlib.closing(connection):
            headers = {"content-type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        if response.status != 200:
            sys.exit(f"`{path}` answered {response.status}: {content!r}")
        return content

    def generate(self, prompt: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Generate one text; return its details, numbers with a fraction as they were sent."""
        body = {"inputs": prompt, "parameters": {"details": True, **parameters}}
        details: dict[str, Any] = json.loads(self.call("POST", "/generate", body), parse_float=str)["details"]
        return details

    def metric(self, name: str) -> float:
        """Read the sum of a metric's samples."""
        lines = self.call("GET", "/metrics").decode().splitlines()
        samples = [line.split() for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(sample[-1]) for sample in samples)

    def kill_children(self) -> None:
        """Kill the workers, as the kernel does when memory runs out."""
        for path in Path(f"/proc/{self.pid}/task").glob("*/children"):
            for child in path.read_text().split():
                os.kill(int(child), signal.SIGKILL)

    def is_ready(self) -> bool:
        """Whether it serves."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[RealServer]:
    """Run the server with these arguments of `serve`; yield it when it is ready. Exits if it ends before."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [str(BINARY), "serve", "--hostname", "127.0.0.1", "--port", str(port), *arguments]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        server = RealServer(port, process.pid)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not server.is_ready():
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"the server ended: {log.read()}")
                if time.monotonic() > deadline:
                    sys.exit(f"the server is not ready after {START_TIMEOUT_S} s")
                time.sleep(0.1)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)


def float32_folder() -> Path:
    """The bundled model as a float32 folder; written once, kept in the project's cache."""
    if not (FLOAT32_FOLDER / "config.json").exists():
        subprocess.run([sys.executable, ROOT / "tools/make_smollm2_folder.py", FLOAT32_FOLDER], check=True)
    return FLOAT32_FOLDER


def real_texts() -> list[str]:
    """The truth check's texts."""
    texts: list[str] = json.loads((ROOT / "tools/truth_texts.json").read_text(encoding="utf-8"))
    return texts
