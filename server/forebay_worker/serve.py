"""A worker's life: configuration from stdin, socket, model, steps, end. Torch is imported once the socket is bound."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import signal
import sys
import threading

from forebay_worker.config import WorkerConfig
from forebay_worker.log import set_up_logging
from forebay_worker.service import WorkerService, stop

log = logging.getLogger(__name__)


def serve() -> int:
    """Serve plans until the plan stream or stdin ends. Returns: the exit status, 0 if the router closed the stream."""
    set_up_logging("info")
    try:
        config = WorkerConfig.from_json(sys.stdin.readline())
        set_up_logging(config.log_level)
    except ValueError as error:
        log.error("configuration refused: %s", error)
        return 2
    # ^C reaches the whole process group of a terminal, and the launcher decides what it means. SIGTERM keeps its
    # default, which ends the process even while the main thread is inside a kernel.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_stdin, name="stdin", daemon=True).start()
    service = WorkerService(config.incarnation, _version())
    server = service.start(config.socket_path)
    ended_well = _load_and_run(service, config)
    stop(server)
    return 0 if ended_well else 1


def _load_and_run(service: WorkerService, config: WorkerConfig) -> bool:
    try:
        from forebay_worker.startup import set_up_process, start_executor

        set_up_process(config)
        executor = start_executor(config)
    except ValueError as error:
        log.error("model refused: %s", error)
        service.refuse(str(error))
        return False
    except Exception as error:
        log.exception("the worker could not start")
        service.refuse(f"the worker could not start: {error}")
        return False
    # What is loaded stays. Left to the collector, its 200,000 objects cost a full collection 110 ms in mid-step.
    gc.collect()
    gc.freeze()
    service.ready(executor.capabilities)
    return service.run_steps(executor.execute)


def _exit_with_stdin() -> None:
    """The launcher holds the other end of the pipe: its end of file means that the launcher is gone."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


def _version() -> str:
    try:
        return importlib.metadata.version("forebay")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
