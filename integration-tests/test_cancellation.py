"""Clients that leave: nothing of theirs may stay behind."""

import json
import random
import socket
import threading
import time
from pathlib import Path

import pytest

NUM_ABORTS = 1000
NUM_CLIENTS = 24
SETTLE_S = 60.0

pytestmark = pytest.mark.timeout(600)


def send_and_leave(port: int, stream: bool, wait_s: float, seed: int) -> None:
    """Send a request and cut the connection after `wait_s`, whatever has come by then."""
    words = " ".join(random.Random(seed).choices(["river", "stone", "lamp", "glass", "tree"], k=seed % 300 + 1))
    body = json.dumps({"inputs": f"{seed} {words}", "parameters": {"max_new_tokens": 200}}).encode()
    path = "/generate_stream" if stream else "/generate"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(wait_s)


def blocks(server, state: str) -> float:
    return server.metric(f'forebay_kv_blocks{{state="{state}"}}')


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_thousand_aborts_leave_nothing(start_server):
    with start_server("--max-concurrent-requests", "256") as server:
        server.post("/generate", {"inputs": "warm up", "parameters": {"max_new_tokens": 4}})
        time.sleep(1)
        pids = [server.process.pid, *server.worker_pids()]
        before = [descriptors(pid) for pid in pids]
        total = blocks(server, "free") + blocks(server, "cached")

        rng = random.Random(7)
        jobs = [
            (rng.random() < 0.5, rng.choice([0.0, 0.005, 0.05, 0.3, 1.0]) * rng.random(), i) for i in range(NUM_ABORTS)
        ]
        lock = threading.Lock()
        kept: list[dict] = []

        def abort() -> None:
            while True:
                with lock:
                    if not jobs:
                        return
                    stream, wait_s, seed = jobs.pop()
                send_and_leave(server.port, stream, wait_s, seed)

        def keep(seed: int) -> None:
            for _ in range(3):
                kept.append(
                    server.post(
                        "/generate",
                        {"inputs": f"keep {seed}", "parameters": {"max_new_tokens": 24, "details": True}},
                        300,
                    )
                )

        threads = [threading.Thread(target=abort) for _ in range(NUM_CLIENTS)]
        threads += [threading.Thread(target=keep, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(kept) == 12
        assert all(a["details"]["generated_tokens"] == 24 or a["details"]["finish_reason"] == "eos_token" for a in kept)
        ended = time.monotonic()
        while time.monotonic() < ended + SETTLE_S:
            counts = [blocks(server, "held"), blocks(server, "fenced")]
            counts += [server.metric("tgi_batch_current_size"), server.metric("tgi_queue_size")]
            now = [descriptors(pid) for pid in pids]
            # The requests for metrics are connections too: the last may still be closing.
            if counts == [0, 0, 0, 0] and now == before:
                break
            time.sleep(0.05)
        print(f"all was free {time.monotonic() - ended:.2f} s after the last client had gone")
        assert counts == [0, 0, 0, 0], "held, fenced, running, queued"
        assert blocks(server, "free") + blocks(server, "cached") == total
        assert now == before, "descriptors"
