"""Resident memory of a server: the Pss of all its processes, so that a page they share is counted once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")

KINDS = {"anonymous": "Pss_Anon:", "files": "Pss_File:", "shared": "Pss_Shmem:"}
"""What a process wrote itself (and shares with what it was forked from), mapped from files, or shares by name."""


def pss_mib(pid: int) -> float:
    """MiB of a process and all its descendants. Raises: OSError if one is gone."""
    return sum(sum(pss_by_kind_mib(one).values()) for one in (pid, *descendants(pid)))


def pss_by_kind_mib(pid: int) -> dict[str, float]:
    """MiB of one process, for each of `KINDS`. Raises: OSError if it is gone."""
    lines = [line.split() for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]]
    kib = {words[0]: int(words[1]) for words in lines}
    return {kind: kib[field] / 1024 for kind, field in KINDS.items()}


def descendants(pid: int) -> Iterator[int]:
    """All below a process, parents first."""
    for task in (_PROC / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def name_of(pid: int) -> str:
    """What `ps` shows of a process."""
    return (_PROC / str(pid) / "comm").read_text().rstrip()


def pss_of_bare_torch_mib() -> float:
    """MiB of a Python that has imported torch and nothing else: what no server with torch can be below."""
    command = [sys.executable, "-c", "import sys, torch; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        found = pss_mib(process.pid)
        process.stdin.close()
    return found
