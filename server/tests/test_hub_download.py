"""Downloads from a hub of our own on the loopback address, as HF_ENDPOINT points the real client at it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPOSITORY = "some/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights", "README.md": b"not needed"}


class Hub(ThreadingHTTPServer):
    """The few calls of the hub that a download makes; remembers what it was asked, and by whom."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: list[str] = []
        self.authorizations: set[str | None] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.paths.append(path)
        self.server.authorizations.add(self.headers.get("authorization"))
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            entries = [{"type": "file", "path": name, "size": len(body), "oid": "0"} for name, body in FILES.items()]
            self._send(json.dumps(entries).encode(), {"content-type": "application/json"}, with_body)
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": name} for name in FILES]
            info = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
            self._send(json.dumps(info).encode(), {"content-type": "application/json"}, with_body)
        elif (body := FILES.get(path.rpartition("/")[2])) is not None:
            etag = hashlib.sha256(body).hexdigest()
            self._send(body, {"x-repo-commit": COMMIT, "etag": f'"{etag}"'}, with_body)
        else:
            self.send_error(404)

    def _send(self, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(200)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub():
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def download(hub: Hub, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `download` as the launcher does, with only these variables of the hub's set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    command = [sys.executable, "-m", "forebay_worker", "download", REPOSITORY]
    environment = {**inherited, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN"])
def test_a_model_is_fetched_from_hf_endpoint_with_the_token_by_any_of_its_names(hub, tmp_path, variable):
    run = download(hub, tmp_path, **{variable: "hf_secret"})
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["revision"] == COMMIT
    folder = Path(answer["path"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert "Bearer hf_secret" in hub.authorizations
    assert "hf_secret" not in run.stdout + run.stderr


def test_the_newer_name_of_the_token_wins(hub, tmp_path):
    assert download(hub, tmp_path, HF_TOKEN="hf_new", HF_API_TOKEN="hf_old").returncode == 0
    assert "Bearer hf_new" in hub.authorizations and "Bearer hf_old" not in hub.authorizations


def test_offline_a_fetched_model_is_found_without_a_request(hub, tmp_path):
    first = download(hub, tmp_path)
    assert first.returncode == 0, first.stderr
    hub.paths.clear()
    offline = download(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, first.stdout), offline.stderr
    assert hub.paths == []
