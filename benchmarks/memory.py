"""Resident memory of a server: the Pss of all its processes, so that a page they share is counted once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def pss_mib(pid: int) -> float:
    """MiB of a process and all its descendants. Raises: OSError if the process is gone."""
    return sum(_pss_kib(one) for one in _tree(pid)) / 1024


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in (_PROC / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _tree(int(child))


def _pss_kib(pid: int) -> int:
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise OSError(f"`/proc/{pid}/smaps_rollup` has no Pss")


def pss_of_bare_torch_mib() -> float:
    """MiB of a Python that has imported torch and nothing else: what no server with torch can be below."""
    command = [sys.executable, "-c", "import sys, torch; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        found = pss_mib(process.pid)
        process.stdin.close()
    return found
