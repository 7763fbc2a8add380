"""Workers killed under running streams: each stream pauses and goes on, and no token changes, repeats or is missing."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time

import pytest

NUM_STREAMS = 16
NUM_TOKENS = 192
MAX_PAUSE_S = 120

pytestmark = pytest.mark.timeout(900)


class Stream(threading.Thread):
    """One client of `/generate_stream`: the ids it was told, its last event, its longest pause."""

    def __init__(self, port: int, number: int) -> None:
        """Every other stream samples, with a seed of its own."""
        super().__init__()
        self.port = port
        self.parameters = {"max_new_tokens": NUM_TOKENS, "details": True}
        if number % 2:
            self.parameters |= {"do_sample": True, "temperature": 0.8, "seed": number}
        self.prompt = f"Story number {number}: once upon a time,"
        self.ids: list[int] = []
        self.last: dict = {}
        self.longest_pause_s = 0.0

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=MAX_PAUSE_S)
        body = json.dumps({"inputs": self.prompt, "parameters": self.parameters})
        connection.request("POST", "/generate_stream", body, {"content-type": "application/json"})
        response = connection.getresponse()
        before = time.monotonic()
        for line in response:
            if line.startswith(b"data:"):
                now = time.monotonic()
                self.longest_pause_s, before = max(self.longest_pause_s, now - before), now
                self.last = json.loads(line[5:])
                if "token" in self.last:
                    self.ids.append(self.last["token"]["id"])
        connection.close()


def run_streams(port: int) -> list[Stream]:
    streams = [Stream(port, number) for number in range(NUM_STREAMS)]
    for stream in streams:
        stream.start()
    return streams


def finish(streams: list[Stream]) -> list[list[int]]:
    """Wait for all and check that each ended well; return their ids."""
    for stream in streams:
        stream.join()
        details = stream.last.get("details")
        assert details, stream.last
        assert details["generated_tokens"] == len(stream.ids)
        assert len(stream.ids) == NUM_TOKENS or details["finish_reason"] == "eos_token"
    return [stream.ids for stream in streams]


def kill_one(server, rng: random.Random) -> None:
    """Kill a worker at a moment when all are there, whatever they are doing."""
    deadline = time.monotonic() + MAX_PAUSE_S
    while not (pids := server.worker_pids()) and time.monotonic() < deadline:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(pids), signal.SIGKILL)


def losses(server) -> int:
    return int(server.metric("forebay_worker_group_losses_total"))


def check_kills(server, num_kills: int) -> None:
    """Run the streams undisturbed, then again and again until so many kills have met them."""
    expected = finish(run_streams(server.port))
    rng = random.Random(11)
    longest_pause_s, num_done = 0.0, 0
    while num_done < num_kills:
        streams = run_streams(server.port)
        while num_done < num_kills and any(stream.is_alive() for stream in streams):
            time.sleep(rng.uniform(0.3, 4))
            if server.request("GET", "/health")[0] == 200 and any(stream.is_alive() for stream in streams):
                kill_one(server, rng)
                num_done += 1
        assert finish(streams) == expected
        longest_pause_s = max(longest_pause_s, *(stream.longest_pause_s for stream in streams))
    assert losses(server) >= num_kills
    print(f"{num_done} kills under {NUM_STREAMS} streams, longest pause {longest_pause_s:.1f} s")


def float32(folder, *more: str) -> tuple[str, ...]:
    return ("--model-id", str(folder), "--dtype", "float32", *more)


def test_streams_go_on_over_three_kills(start_server, float32_folder):
    with start_server(*float32(float32_folder)) as server:
        check_kills(server, 3)


def test_streams_go_on_when_one_of_three_shards_is_killed(start_server, float32_folder):
    with start_server(*float32(float32_folder, "--num-shard", "3")) as server:
        check_kills(server, 1)


@pytest.mark.slow
def test_streams_go_on_over_twenty_kills(start_server, float32_folder):
    with start_server(*float32(float32_folder)) as server:
        check_kills(server, 20)
