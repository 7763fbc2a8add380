"""The spare process: workers forked from it are workers like any other, and none outlives it."""

from __future__ import annotations

import array
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
import pytest

from forebay_worker.pb import worker_pb2 as pb
from forebay_worker.pb import worker_pb2_grpc

SECONDS = 120
CORES = sorted(os.sched_getaffinity(0))

pytestmark = pytest.mark.timeout(2 * SECONDS)


@dataclasses.dataclass(frozen=True)
class Forked:
    """A worker, and our ends of its streams."""

    pid: int
    stdin: IO[str]
    stderr: IO[str]


class Launcher:
    """What the launcher does with a spare process."""

    def __init__(self, **variables: str) -> None:
        """Start one, with these variables in its environment."""
        self.files = ExitStack()
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(SECONDS)
        self.reports = self.files.enter_context(self.socket.makefile("r"))
        command = [sys.executable, "-m", "forebay_worker", "spare"]
        # Without it numpy's library starts threads as soon as it is loaded, and nothing is forked then.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"} | variables
        with theirs:
            self.process = self.files.enter_context(subprocess.Popen(command, stdin=theirs, env=environment))

    def hang_up(self) -> None:
        self.reports.close()
        self.socket.close()

    def order(self, line: str, *descriptors: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.socket.sendmsg([line.encode()], rights)

    def fork(self) -> Forked:
        (stdin, to_stdin), (from_stderr, stderr) = os.pipe(), os.pipe()
        self.order("fork\n", stdin, stderr, stderr)
        word, pid = self.report()
        assert word == "started"
        for descriptor in (stdin, stderr):
            os.close(descriptor)
        opened = os.fdopen(to_stdin, "w", buffering=1), os.fdopen(from_stderr)
        return Forked(int(pid), *(self.files.enter_context(file) for file in opened))

    def report(self) -> list[str]:
        return self.reports.readline().split()


@contextmanager
def running(**variables: str) -> Iterator[Launcher]:
    launcher = Launcher(**variables)
    with launcher.files:
        try:
            yield launcher
        finally:
            launcher.process.kill()
            launcher.hang_up()


@pytest.fixture(scope="module")
def shared() -> Iterator[Launcher]:
    with running() as launcher:
        yield launcher


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with running() as launcher:
        yield launcher


def config_line(folder: Path, **fields: Any) -> str:
    fields |= {"model_path": str(folder / "none.gguf"), "rendezvous_path": str(folder / "ranks"), "incarnation": 1}
    return json.dumps(fields | {"socket_path": str(folder / "w.sock")}) + "\n"


def wait_until_gone(worker: Forked) -> None:
    """Its end of the pipe closes with the process."""
    worker.stderr.read()


def test_a_forked_worker_reads_its_configuration_and_says_on_its_own_stderr_why_it_ends(
    shared: Launcher, tmp_path: Path
):
    worker = shared.fork()
    worker.stdin.write(config_line(tmp_path))
    line = json.loads(worker.stderr.readline())
    assert "none.gguf" in line["message"]
    assert shared.report() == ["ended", str(worker.pid), str(1 << 8)]


def test_a_forked_worker_ends_when_its_own_stdin_ends_and_the_others_stay(shared: Launcher):
    first, second = shared.fork(), shared.fork()
    first.stdin.close()
    assert shared.report() == ["ended", str(first.pid), str(2 << 8)]
    os.kill(second.pid, 0)
    second.stdin.close()
    assert shared.report()[1] == str(second.pid)


def test_a_worker_is_killed_when_it_is_ordered_and_the_next_one_starts(shared: Launcher):
    worker = shared.fork()
    shared.order(f"kill {worker.pid}\n")
    assert shared.report() == ["ended", str(worker.pid), str(signal.SIGKILL)]
    # Nobody's any more.
    shared.order(f"kill {worker.pid}\n")
    shared.order(f"kill {shared.fork().pid}\n")
    assert shared.report()[2] == str(signal.SIGKILL)


@pytest.mark.skipif(len(CORES) < 2, reason="takes two cores")
def test_threads_of_a_forked_workers_service_are_not_bound_to_its_main_threads_core(tmp_path: Path):
    places = f"{{{CORES[0]}}},{{{CORES[1]}}}"
    with running(OMP_PROC_BIND="true", OMP_PLACES=places, OMP_NUM_THREADS="2") as launcher:
        worker = launcher.fork()
        # Its peer never comes.
        worker.stdin.write(config_line(tmp_path, world_size=2))
        with grpc.insecure_channel(f"unix:{tmp_path / 'w.sock'}") as channel:
            stub = worker_pb2_grpc.WorkerStub(channel)
            stub.Heartbeat(pb.HeartbeatRequest(), timeout=SECONDS, wait_for_ready=True)
        threads = {int(task.name) for task in Path(f"/proc/{worker.pid}/task").iterdir()} - {worker.pid}
        assert os.sched_getaffinity(worker.pid) == {CORES[0]}
        # Those of the group's meeting are the main thread's.
        assert set(CORES) in [os.sched_getaffinity(thread) for thread in threads]


def test_workers_die_with_a_spare_process_that_is_killed(launcher: Launcher):
    worker = launcher.fork()
    launcher.process.kill()
    wait_until_gone(worker)


def test_workers_and_the_spare_process_end_when_the_launcher_is_gone(launcher: Launcher):
    worker = launcher.fork()
    launcher.hang_up()
    assert launcher.process.wait(SECONDS) == 0
    wait_until_gone(worker)
