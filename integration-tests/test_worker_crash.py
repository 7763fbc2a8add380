"""Workers killed under running streams: each stream pauses and goes on, and no token changes, repeats or is missing."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import statistics
import time

import pytest

from streams import MAX_PAUSE_S, Stream, finish, outage_s, run_streams

NUM_STREAMS = 16
NUM_TOKENS = 96

pytestmark = pytest.mark.timeout(900)


def kill_one(server, rng: random.Random) -> float:
    """Kill a worker at a moment when all are there, whatever they are doing; return when."""
    deadline = time.monotonic() + MAX_PAUSE_S
    while not (pids := server.worker_pids()) and time.monotonic() < deadline:
        time.sleep(0.05)
    moment = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(pids), signal.SIGKILL)
    return moment


def wait_until_all_go_on(streams: list[Stream], moment: float) -> None:
    """Wait until every stream has had a token of the life that follows the kill at `moment`.

    A request that is alone on trial in two deaths is given up by design. So of two kills the second may come while the
    streams are tried, and the next one when all are cleared.
    """
    # Until then comes what was on its way.
    while any(stream.is_alive() and stream.times[-1] < moment + 1 for stream in streams):
        time.sleep(0.05)


def pool_sizes(server) -> set[str]:
    """Read from the log how many blocks each life of the group had."""
    return set(re.findall(r"the worker group is ready.* num_blocks=(\d+)", server.log_text()))


def check_kills(server, num_kills: int, seed: int = 11) -> None:
    """Run the streams undisturbed, then again and again until so many kills have met them."""
    expected = finish(run_streams(server, NUM_STREAMS, NUM_TOKENS))
    rng = random.Random(seed)
    outages: list[float] = []
    longest_pause_s = 0.0
    while len(outages) < num_kills:
        streams, moments = run_streams(server, NUM_STREAMS, NUM_TOKENS), []
        while len(outages) + len(moments) < num_kills and any(stream.is_alive() for stream in streams):
            if moments and len(moments) % 2 == 0:
                wait_until_all_go_on(streams, moments[-1])
            time.sleep(rng.uniform(0.3, 4))
            if server.request("GET", "/health")[0] == 200 and any(stream.is_alive() for stream in streams):
                moments.append(kill_one(server, rng))
        assert finish(streams) == expected
        outages += [outage_s(streams, moment) for moment in moments]
        longest_pause_s = max(longest_pause_s, *(stream.longest_pause_s() for stream in streams))
    assert server.num_losses() == num_kills
    assert len(pool_sizes(server)) == 1
    seconds = ", ".join(f"{outage:.1f}" for outage in outages)
    print(f"{num_kills} kills under {NUM_STREAMS} streams: tokens again after {seconds} s, in the median", end=" ")
    print(f"{statistics.median(outages):.1f} s; the longest pause of a stream was {longest_pause_s:.1f} s")


def float32(folder, *more: str) -> tuple[str, ...]:
    return ("--model-id", str(folder), "--dtype", "float32", *more)


def test_streams_go_on_over_three_kills(start_server, float32_folder):
    with start_server(*float32(float32_folder)) as server:
        check_kills(server, 3)


def test_streams_go_on_when_one_of_three_shards_is_killed(start_server, float32_folder):
    with start_server(*float32(float32_folder, "--num-shard", "3")) as server:
        check_kills(server, 1)


def test_streams_go_on_when_the_spare_process_is_killed_and_its_worker_with_it(start_server, float32_folder):
    with start_server(*float32(float32_folder)) as server:
        expected = finish(run_streams(server, NUM_STREAMS, NUM_TOKENS))
        streams = run_streams(server, NUM_STREAMS, NUM_TOKENS)
        while not all(stream.ids for stream in streams):
            time.sleep(0.01)
        (spare,) = server.spare_pids()
        os.kill(spare, signal.SIGKILL)
        assert finish(streams) == expected
        assert server.num_losses() == 1
        (successor,) = server.spare_pids()
        assert successor != spare


@pytest.mark.parametrize(
    ("flags", "num_spares"), [((), 1), (("--disable-spare-worker",), 0)], ids=["forked", "each by itself"]
)
def test_all_shards_come_back_when_one_is_killed(start_server, tiny_llama_folder, flags, num_spares):
    shards = ("--model-id", str(tiny_llama_folder), "--num-shard", "2", "--num-threads", "1")
    with start_server(*shards, *flags) as server:
        expected = finish(run_streams(server, 4, 200))
        workers = server.worker_pids()
        assert len(workers) == 2
        assert len(server.spare_pids()) == num_spares
        streams = run_streams(server, 4, 200)
        while not all(stream.ids for stream in streams):
            time.sleep(0.01)
        os.kill(workers[1], signal.SIGKILL)
        assert finish(streams) == expected
        server.post("/generate", {"inputs": "A story:", "parameters": {"max_new_tokens": 2}}, 120)
        assert not set(workers) & set(server.worker_pids())
        assert len(server.spare_pids()) == num_spares


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_streams_go_on_over_twenty_kills(start_server, float32_folder, seed):
    with start_server(*float32(float32_folder)) as server:
        check_kills(server, 5, seed)
