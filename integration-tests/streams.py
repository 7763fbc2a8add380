"""Many clients of `/generate_stream` at once: what each was told, and when."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time

from binary import Server

MAX_PAUSE_S = 120


class Stream(threading.Thread):
    """One client: the ids it was told, when each event came, and the last event."""

    def __init__(self, port: int, number: int, num_tokens: int) -> None:
        """Every other stream samples, with a seed of its own."""
        super().__init__()
        self.port = port
        self.parameters = {"max_new_tokens": num_tokens, "details": True}
        if number % 2:
            self.parameters |= {"do_sample": True, "temperature": 0.8, "seed": number}
        self.prompt = f"Story number {number}: once upon a time,"
        self.ids: list[int] = []
        self.times: list[float] = []
        self.last: dict = {}

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=MAX_PAUSE_S)
        body = json.dumps({"inputs": self.prompt, "parameters": self.parameters})
        self.times.append(time.monotonic())
        connection.request("POST", "/generate_stream", body, {"content-type": "application/json"})
        response = connection.getresponse()
        for line in response:
            if line.startswith(b"data:"):
                self.times.append(time.monotonic())
                self.last = json.loads(line[5:])
                if "token" in self.last:
                    self.ids.append(self.last["token"]["id"])
        connection.close()

    def longest_pause_s(self) -> float:
        """Between two events."""
        return max(after - before for before, after in itertools.pairwise(self.times))


def run_streams(server: Server, num_streams: int, num_tokens: int) -> list[Stream]:
    """Start them; `finish` waits for them."""
    streams = [Stream(server.port, number, num_tokens) for number in range(num_streams)]
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
        assert len(stream.ids) == stream.parameters["max_new_tokens"] or details["finish_reason"] == "eos_token"
    return [stream.ids for stream in streams]


def outage_s(streams: list[Stream], moment: float) -> float:
    """Seconds without a token of any stream around `moment`; what is on its way then may still come."""
    times = sorted(at for stream in streams for at in stream.times)
    gaps = [after - before for before, after in itertools.pairwise(times) if before < moment + 1 and after > moment]
    return max(gaps, default=0.0)
