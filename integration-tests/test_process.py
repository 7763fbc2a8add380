"""The binary as a process: ports, signals, orphans."""

import contextlib
import http.client
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from binary import BINARY, ROOT

# Of patience with a slow machine, not of what may be taken.
LIMIT_S = 60

pytestmark = pytest.mark.timeout(300)


def runs(pid: int) -> bool:
    """Tell whether a process still runs; one that waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def test_version_prints_the_version():
    output = subprocess.run([BINARY, "--version"], check=True, capture_output=True, text=True).stdout
    assert output.startswith("forebay ")


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("text-generation-launcher", ["--help"], "--max-concurrent-requests"),
        ("text-generation-server", ["download-weights", "--help"], "--auto-convert"),
        ("text-generation-router", ["print-schema"], '"/generate_stream"'),
    ],
)
def test_tgis_programs_are_this_one_by_their_names(tmp_path, name, arguments, part):
    link = tmp_path / name
    link.symlink_to(BINARY)
    output = subprocess.run([link, *arguments], check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout
    assert part in output


def test_a_port_in_use_ends_the_start_and_names_the_address():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [BINARY, "serve", "--hostname", "127.0.0.1", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode != 0
    assert str(port) in ended.stdout + ended.stderr


@pytest.mark.parametrize("flag", ["--quantize=awq", "--speculate=3", "--trust-remote-code", "--lora-adapters=x"])
def test_a_flag_that_is_not_built_is_refused_by_name(flag):
    ended = subprocess.run([BINARY, "serve", flag], capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 2
    assert flag.split("=")[0] in ended.stdout + ended.stderr


def test_health_is_503_until_the_model_answers():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [BINARY, "serve", "--hostname", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        statuses = []
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline and statuses[-1:] != ["200"]:
            command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{port}/health"]
            statuses.append(subprocess.run(command, capture_output=True, text=True).stdout)
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=LIMIT_S) == 0
    assert statuses[-1] == "200"
    assert "503" in statuses
    assert set(statuses) <= {"000", "503", "200"}


def test_sigterm_lets_a_running_stream_finish(start_server):
    with start_server() as server:
        answer = {}

        def generate() -> None:
            answer.update(
                server.post("/generate", {"inputs": "A story:", "parameters": {"max_new_tokens": 150, "details": True}})
            )

        thread = threading.Thread(target=generate)
        thread.start()
        deadline = time.monotonic() + LIMIT_S
        while not server.metric("tgi_batch_current_size") and time.monotonic() < deadline:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        assert server.process.wait(timeout=LIMIT_S) == 0
    assert answer["details"]["generated_tokens"] == 150 or answer["details"]["finish_reason"] == "eos_token"


def test_a_killed_router_leaves_no_worker(start_server):
    with start_server() as server:
        workers = [*server.worker_pids(), *server.spare_pids()]
        assert len(workers) == 2
        server.process.kill()
        server.process.wait()
        deadline = time.monotonic() + LIMIT_S
        while any(runs(pid) for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(runs(pid) for pid in workers)


def test_a_changed_key_file_counts_without_a_restart(tmp_path, start_server):
    keys = tmp_path / "keys"
    keys.write_text("first\n")

    def status(server, key: str) -> int:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
        with contextlib.closing(connection):
            connection.request("POST", "/tokenize", '{"inputs": "a"}', headers)
            return connection.getresponse().status

    with start_server("--api-key-file", str(keys)) as server:
        assert (status(server, "first"), status(server, "second")) == (200, 401)
        keys.write_text("second\n")
        deadline = time.monotonic() + LIMIT_S
        while status(server, "second") == 401 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (status(server, "first"), status(server, "second")) == (401, 200)


def test_no_file_of_a_run_is_left_in_the_working_folder():
    assert not (ROOT / "out").exists()


def test_env_prints_the_build_and_what_workers_would_run_on():
    facts = dict(line.split(": ", 1) for line in subprocess.check_output([BINARY, "env"], text=True).splitlines())
    assert {"router", "cores", "python", "torch", "kernels"} <= facts.keys()
