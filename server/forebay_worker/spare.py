"""The spare process: it has imported all that a worker needs, holds no weights, and forks workers from itself.

Orders come over the socket that is its standard input, lines of text: `fork`, with the worker's three standard streams
as descriptors, and `kill PID`. It reports `started PID` or `failed REASON` to each `fork` in turn, and later
`ended PID STATUS`, the status as `wait` gives it. End of file means exit. It computes nothing, and nothing here may
start a thread: a fork takes along only the one that calls it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
from pathlib import Path

from forebay_worker import serve
from forebay_worker.log import set_up_logging

log = logging.getLogger(__name__)

_IMPORTED_LATE = (
    "forebay_worker.startup",
    "forebay_worker.models.families.llama",
    "forebay_worker.layers.fused_sublayers",
    "forebay_worker.attention.cpu_paged",
    "forebay_worker.quantization.gguf",
    "forebay_worker.quantization.packed_float",
    "forebay_worker.quantization.unquantized",
    "numpy.ma",
)
"""What a worker imports only when it comes to it; a family of its own it still imports itself."""

_NUM_STREAMS = 3
_PR_SET_PDEATHSIG = 1


def run_spare() -> int:
    """Import, then fork workers until the launcher is gone. Returns: the exit status, in each worker its own."""
    set_up_logging("info")
    # ^C reaches the whole process group of a terminal, and the launcher decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve.name_process("forebay-spare")
    # The threads' library binds this one when it is loaded.
    cores = os.sched_getaffinity(0)
    # What is imported stays: the collector would look at it again and again, and in a worker touch, and so copy, it.
    gc.disable()
    for module in _IMPORTED_LATE:
        importlib.import_module(module)
    serve.version()
    gc.freeze()
    if (num_threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        log.error("cannot fork workers: `%d` threads run once everything is imported, expected 1", num_threads)
        return 1
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as launcher:
        is_worker = Spare(launcher).run()
    return serve.serve(cores) if is_worker else 0


class Spare:
    """Forks, kills and reaps as the launcher says."""

    def __init__(self, launcher: socket.socket) -> None:
        """Take the process's SIGCHLD. `launcher`: a stream that carries descriptors."""
        self._launcher = launcher
        self._received = b""
        self._descriptors: list[int] = []
        self._workers: set[int] = set()
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)

    def run(self) -> bool:
        """Carry out orders. Returns: False when the launcher is gone, True in a worker, which goes on by itself."""
        while True:
            readable, _, _ = select.select([self._launcher.fileno(), self._woken], [], [])
            if self._woken in readable:
                os.read(self._woken, 4096)
                self._report_ended()
            if self._launcher.fileno() not in readable:
                continue
            orders = self._receive()
            if orders is None:
                for worker in self._workers:
                    _kill_group(worker)
                return False
            for order in orders:
                if self._carry_out(order):
                    return True

    def _receive(self) -> list[str] | None:
        """Read whole lines, and keep the descriptors that came with them; None at the end."""
        try:
            content, descriptors, _, _ = socket.recv_fds(self._launcher, 4096, 8 * _NUM_STREAMS)
        except ConnectionError:
            return None
        self._descriptors += descriptors
        if not content:
            return None
        *lines, self._received = (self._received + content).split(b"\n")
        return [line.decode() for line in lines]

    def _carry_out(self, order: str) -> bool:
        """Whether this is now a worker."""
        match order.split(" "):
            case ["fork"]:
                streams = [self._descriptors.pop(0) for _ in range(_NUM_STREAMS)]
                try:
                    return self._fork(streams)
                finally:
                    for stream in streams:
                        os.close(stream)
            case ["kill", worker] if int(worker) in self._workers:
                _kill_group(int(worker))
        return False

    def _fork(self, streams: list[int]) -> bool:
        spare = os.getpid()
        try:
            worker = os.fork()
        except OSError as error:
            self._report(f"failed {error}")
            return False
        if worker == 0:
            self._become_worker(streams, spare)
            return True
        self._workers.add(worker)
        self._report(f"started {worker}")
        return False

    def _become_worker(self, streams: list[int], spare: int) -> None:
        """Leave nothing of the spare process in this copy but what it has imported."""
        _die_with(spare)
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        for descriptor in (*self._descriptors, self._woken, self._wake):
            os.close(descriptor)

    def _report_ended(self) -> None:
        for worker in list(self._workers):
            reaped, status = os.waitpid(worker, os.WNOHANG)
            if reaped:
                self._workers.remove(worker)
                self._report(f"ended {worker} {status}")

    def _report(self, line: str) -> None:
        # If the launcher is gone, the next order is the end.
        try:
            self._launcher.sendall(f"{line}\n".encode())
        except OSError:
            log.debug("nobody is left to hear `%s`", line)


def _kill_group(worker: int) -> None:
    """Kill a worker that is not reaped yet and what it started."""
    for kill, target in ((os.kill, worker), (os.killpg, worker)):
        try:
            kill(target, signal.SIGKILL)
        except ProcessLookupError:  # it has not made its group yet, or has ended
            continue


def _die_with(spare: int) -> None:
    """Let the kernel kill this process when its parent is gone."""
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != spare:
        os._exit(1)
