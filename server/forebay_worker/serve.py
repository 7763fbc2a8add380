"""A worker's life: configuration from stdin, socket, model, steps, end. Torch is imported once the socket is bound."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import logging
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from forebay_worker.config import WorkerConfig
from forebay_worker.grammar.store import GrammarStore
from forebay_worker.log import set_up_logging
from forebay_worker.service import WorkerService, stop

log = logging.getLogger(__name__)


def serve(cores: Collection[int] | None = None) -> int:
    """Serve plans until the plan stream or stdin ends.

    `cores`: those that this process may use, if what is imported has bound the calling thread to one of them.
    Returns: the exit status, 0 if the router closed the stream.
    """
    set_up_logging("info")
    name_process("forebay-worker")
    try:
        config = WorkerConfig.from_json(sys.stdin.readline())
        set_up_logging(config.log_level)
    except ValueError as error:
        log.error("configuration refused: %s", error)
        return 2
    # ^C reaches the whole process group of a terminal, and the launcher decides what it means. SIGTERM keeps its
    # default, which ends the process even while the main thread is inside a kernel.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    grammars = GrammarStore(cores)
    service = WorkerService(config.incarnation, version(), grammars)
    with _unbound(cores):
        threading.Thread(target=_exit_with_stdin, name="stdin", daemon=True).start()
        server = service.start(config.socket_path)
    ended_well = _load_and_run(service, config, grammars)
    stop(server)
    return 0 if ended_well else 1


def _load_and_run(service: WorkerService, config: WorkerConfig, grammars: GrammarStore) -> bool:
    # What is imported and loaded stays; the collector would look at it again and again, for 200 ms of torch's import.
    gc.disable()
    try:
        from forebay_worker.startup import set_up_process, start_executor

        set_up_process(config)
        executor = start_executor(config, grammars)
    except ValueError as error:
        log.error("model refused: %s", error)
        service.refuse(str(error))
        return False
    except Exception as error:
        log.exception("the worker could not start")
        service.refuse(f"the worker could not start: {error}")
        return False
    # Left to the collector, its 200,000 objects cost a full collection 110 ms in mid-step.
    gc.collect()
    gc.freeze()
    gc.enable()
    service.ready(executor.capabilities)
    return service.run_steps(executor.execute)


@contextmanager
def _unbound(cores: Collection[int] | None) -> Iterator[None]:
    """Let threads that start meanwhile run on any of `cores`, beside the calling thread's own: they inherit it."""
    if cores is None:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    yield
    os.sched_setaffinity(0, own)


def name_process(name: str) -> None:
    """Set what `ps` and `top` show; no more than 15 bytes."""
    try:
        Path("/proc/self/comm").write_text(name)
    except OSError:
        log.debug("this system names no processes")


def _exit_with_stdin() -> None:
    """The launcher holds the other end of the pipe: its end of file means that the launcher is gone."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


@functools.cache
def version() -> str:
    """Of this package: it takes a search of all that is installed, 30 ms."""
    try:
        return importlib.metadata.version("forebay")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
