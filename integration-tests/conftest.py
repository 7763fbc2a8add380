"""The servers that tests share; `binary.py` runs them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from binary import ROOT, Server, running_server


@pytest.fixture(scope="session")
def logs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def server(logs) -> Iterator[Server]:
    """One server with the bundled model, shared by the tests that only talk to it."""
    with running_server(logs / "default.log") as server:
        yield server


@pytest.fixture
def start_server(tmp_path) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Start further servers with their own arguments."""
    counter = iter(range(100))

    def start(*arguments: str) -> contextlib.AbstractContextManager[Server]:
        return running_server(tmp_path / f"server-{next(counter)}.log", *arguments)

    return start


@pytest.fixture(scope="session")
def float32_folder() -> Path:
    """The bundled model as a float32 folder; written once, kept in the project's cache."""
    folder = ROOT / ".cache/smollm2-float32"
    if not (folder / "config.json").exists():
        subprocess.run([ROOT / ".venv/bin/python", ROOT / "tools/make_smollm2_folder.py", folder], check=True)
    return folder
