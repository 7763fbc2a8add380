"""Workers that are stopped, not dead: seen, killed, replaced, and no stream is the worse for it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from streams import finish, run_streams

pytestmark = pytest.mark.timeout(600)

ONE_THREAD = ("--num-threads", "1")
HEARTBEATS = ("--heartbeat-interval", "2", "--max-missed-heartbeats", "2")
SILENT = "it missed `2` heartbeats in a row, which is the limit"


def wait_for_loss(server) -> None:
    deadline = time.monotonic() + 120
    while server.num_losses() == 0:
        assert time.monotonic() < deadline, server.log_text()
        time.sleep(0.1)


def check_replaced(server, stopped: int) -> None:
    """The stopped process is gone, and another serves."""
    answer = server.post("/generate", {"inputs": "A story:", "parameters": {"max_new_tokens": 4, "details": True}}, 120)
    assert answer["details"]["generated_tokens"] == 4
    assert stopped not in server.worker_pids()


def test_an_idle_worker_that_is_stopped_misses_its_heartbeats_and_is_replaced(start_server, tiny_llama_folder):
    with start_server("--model-id", str(tiny_llama_folder), *ONE_THREAD, *HEARTBEATS) as server:
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        wait_for_loss(server)
        assert SILENT in server.log_text()
        check_replaced(server, worker)


def test_a_spare_process_that_is_stopped_with_its_worker_is_replaced_too(start_server, tiny_llama_folder):
    with start_server("--model-id", str(tiny_llama_folder), *ONE_THREAD, *HEARTBEATS) as server:
        (spare,), (worker,) = server.spare_pids(), server.worker_pids()
        # It can kill nothing now, nor say that anything has ended.
        os.kill(spare, signal.SIGSTOP)
        os.kill(worker, signal.SIGSTOP)
        wait_for_loss(server)
        check_replaced(server, worker)
        assert spare not in server.spare_pids()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ((*HEARTBEATS, "--step-timeout", "600"), SILENT),
        (("--heartbeat-interval", "600", "--step-timeout", "4"), "was not answered within `4000` ms by shard 0"),
    ],
    ids=["heartbeats", "step timeout"],
)
def test_streams_go_on_when_their_worker_is_stopped_in_a_step(start_server, tiny_llama_folder, flags, reason):
    with start_server("--model-id", str(tiny_llama_folder), *ONE_THREAD, *flags) as server:
        expected = finish(run_streams(server, 8, 400))
        (worker,) = server.worker_pids()
        streams = run_streams(server, 8, 400)
        while not all(stream.ids for stream in streams):
            time.sleep(0.01)
        os.kill(worker, signal.SIGSTOP)
        assert any(stream.is_alive() for stream in streams), "stopped too late to tell"
        wait_for_loss(server)
        assert reason in server.log_text()
        assert finish(streams) == expected
        check_replaced(server, worker)
