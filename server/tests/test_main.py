"""The worker as a process: what it says, and when it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from forebay_worker.pb import worker_pb2 as pb
from forebay_worker.pb import worker_pb2_grpc

SECONDS = 60


@contextmanager
def process(line: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m forebay_worker serve`, with its first line on stdin."""
    command = [sys.executable, "-m", "forebay_worker", *(arguments or ("serve",))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as worker:
        assert worker.stdin is not None
        worker.stdin.write(line)
        worker.stdin.flush()
        try:
            yield worker
        finally:
            worker.kill()


def config_line(folder: Path, **fields: Any) -> str:
    fields = {"model_path": str(folder / "none.gguf"), "rendezvous_path": str(folder / "ranks"), **fields}
    return json.dumps({"socket_path": str(folder / "worker.sock"), "incarnation": 1, **fields}) + "\n"


def line_of_a_rank_that_waits(folder: Path) -> str:
    """Its peer never comes, so nothing but what a test does ends it."""
    return config_line(folder, world_size=2)


def heartbeat(folder: Path) -> pb.HeartbeatResponse:
    with grpc.insecure_channel(f"unix:{folder / 'worker.sock'}") as channel:
        stub = worker_pb2_grpc.WorkerStub(channel)
        return stub.Heartbeat(pb.HeartbeatRequest(), timeout=SECONDS, wait_for_ready=True)


def messages(stderr: str) -> list[str]:
    """Every line is a JSON object; traceback lines are inside one."""
    return [json.loads(line)["message"] for line in stderr.splitlines()]


def test_the_worker_ends_when_its_stdin_ends(tmp_path: Path):
    with process(line_of_a_rank_that_waits(tmp_path)) as worker:
        heartbeat(tmp_path)
        worker.communicate(timeout=SECONDS)
        assert worker.returncode == 0


def test_the_worker_ignores_an_interrupt_and_obeys_a_termination(tmp_path: Path):
    with process(line_of_a_rank_that_waits(tmp_path)) as worker:
        heartbeat(tmp_path)
        worker.send_signal(signal.SIGINT)
        heartbeat(tmp_path)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(SECONDS) == -signal.SIGTERM


def test_a_model_that_is_not_there_is_refused_by_name(tmp_path: Path):
    with process(config_line(tmp_path)) as worker:
        assert worker.stderr is not None
        line = json.loads(worker.stderr.readline())
        assert worker.wait(SECONDS) == 1
    assert line["level"] == "error"
    assert "none.gguf" in line["message"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "configuration refused"),
        ("[]\n", "expected a JSON object"),
        ('{"colour": 1}\n', "unknown configuration fields ['colour']"),
        (
            '{"model_path": "x", "socket_path": "y", "rendezvous_path": "", "incarnation": 1, "log_level": "loud"}\n',
            "loud",
        ),
    ],
    ids=["nothing", "a list", "an unknown field", "an unknown level"],
)
def test_a_wrong_configuration_is_refused_by_name(line: str, message: str):
    with process(line) as worker:
        _, stderr = worker.communicate(timeout=SECONDS)
    assert worker.returncode == 2
    assert message in messages(stderr)[0]


def test_an_unknown_task_prints_the_usage():
    with process("", "dance") as worker:
        _, stderr = worker.communicate(timeout=SECONDS)
    assert worker.returncode == 2
    assert stderr.startswith("usage: ")


def test_the_service_and_the_codec_never_import_torch():
    code = "import sys, forebay_worker.serve, forebay_worker.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
