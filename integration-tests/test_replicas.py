"""Two copies of a model: when one dies the other serves on, and takes over what the first cannot finish."""

from __future__ import annotations

import os
import signal
import time

import pytest

from streams import Stream, finish, run_streams

NUM_STREAMS = 12
NUM_TOKENS = 900

# A worker that imports torch is away for long enough to look at what the other does.
SLOW_RESTART = ("--replicas", "2", "--disable-spare-worker")

pytestmark = pytest.mark.timeout(600)


def num_ready(server) -> int:
    return int(server.metric("forebay_worker_group_ready"))


def run_until_all_have_begun(server) -> list[Stream]:
    streams = run_streams(server, NUM_STREAMS, NUM_TOKENS)
    while not all(stream.ids for stream in streams):
        time.sleep(0.01)
    return streams


def kill_a_group(server) -> int:
    """Kill one of two workers and wait until that is seen; return the other."""
    killed, other = server.worker_pids()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: num_ready(server) == 1)
    return other


def wait_until(holds) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_other_group_serves_while_one_restarts_and_no_stream_is_lost(start_server, tiny_llama_folder):
    with start_server("--model-id", str(tiny_llama_folder), *SLOW_RESTART) as server:
        expected = finish(run_streams(server, NUM_STREAMS, NUM_TOKENS))
        streams = run_until_all_have_begun(server)
        other = kill_a_group(server)
        num_served = 0
        while num_ready(server) == 1:
            assert server.request("GET", "/health")[0] == 200
            server.post("/generate", {"inputs": "A story:", "parameters": {"max_new_tokens": 2}})
            num_served += 1
        assert num_served >= 3, "new requests waited for the group that was down"
        assert finish(streams) == expected
        assert server.num_losses() == 1
        assert other in server.worker_pids()


def test_streams_of_a_group_that_is_given_up_go_on_with_the_other(start_server, tiny_llama_folder):
    arguments = ("--model-id", str(tiny_llama_folder), *SLOW_RESTART, "--restart-timeout", "1")
    with start_server(*arguments) as server:
        expected = finish(run_streams(server, NUM_STREAMS, NUM_TOKENS))
        streams = run_until_all_have_begun(server)
        other = kill_a_group(server)
        time.sleep(1.2)
        wait_until(lambda: len(server.worker_pids()) == 2)
        # It is still loading: no worker imports torch in so short a time.
        (successor,) = set(server.worker_pids()) - {other}
        os.kill(successor, signal.SIGKILL)
        wait_until(lambda: "given up" in server.log_text())
        assert finish(streams) == expected
        assert "num_ended=0" in server.log_text()
        assert server.request("GET", "/health")[0] == 200
        assert server.worker_pids() == [other]
