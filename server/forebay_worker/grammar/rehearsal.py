"""Compiles each grammar in a process that may be killed, before it is compiled where it is used.

Most of what is hostile runs into llguidance's limits, but not all: terminals within terminals compile for minutes, and
thousands of rules within rules overflow a stack. So a child holds the token trie and forks for every grammar; the
fork has a limit of processor time, memory and stack, and a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from forebay_worker.grammar.compiler import Compiler, GrammarError, GrammarSource, TokenTable

# Of one compilation. A schema of 64 KiB takes up to one second.
MAX_CPU_SECONDS = 2
_MAX_MEMORY_BYTES = 256 << 20
# A rule within a rule takes 4.5 kB of it, and the shortest rule 8 bytes of source. Who compiles what has been rehearsed
# here must have more.
STACK_BYTES = 64 << 20
# To start, to import and to build the trie takes half a second on a quiet machine.
_START_SECONDS = 120.0
# Beyond a compilation's own deadline, for the fork and the answer.
_GRACE_SECONDS = 30.0
# Steps of the model come first.
_NICENESS = 10


class Rehearsal:
    """The child, as its parent sees it. It starts with the first grammar, and anew after it has died.

    Not to be used by two threads at once. The child ends with its parent: its stdin does.
    """

    def __init__(self, table: TokenTable) -> None:
        """Start nothing yet."""
        self._table = table
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, source: GrammarSource, deadline_s: float) -> None:
        """Compile a grammar in the child. Raises: GrammarError with the reason if it is not to be used."""
        request = {"kind": source.kind, "text": source.text, "deadline_s": deadline_s}
        try:
            child = self._child or self._start()
            _write(child, json.dumps(request).encode() + b"\n")
            error = _read_line(child, deadline_s + _GRACE_SECONDS)
        except OSError as problem:
            self.close()
            raise GrammarError(f"the process that compiles grammars was lost ({problem}); try again") from problem
        if error:
            raise GrammarError(error)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "forebay_worker.grammar.rehearsal"]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        tokens = self._table.tokens
        header = {
            "lengths": [len(token) for token in tokens],
            "special": self._table.special_token_ids,
            "end": self._table.end_token_ids,
        }
        _write(self._child, json.dumps(header).encode() + b"\n" + b"".join(tokens))
        _read_line(self._child, _START_SECONDS)
        return self._child

    def close(self) -> None:
        """End the child, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                # What it did not read any more is lost with it.
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


def _write(child: subprocess.Popen[bytes], data: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(data)
    child.stdin.flush()


def _read_line(child: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Raises: OSError if no answer comes."""
    assert child.stdout is not None
    if not select.select([child.stdout], [], [], timeout_s)[0]:
        raise TimeoutError(f"no answer within {timeout_s:.0f} s")
    line = child.stdout.readline()
    if not line:
        raise BrokenPipeError(f"it ended with status {child.wait()}")
    return str(json.loads(line))


def main() -> None:
    """Be the child: read the table, then a grammar a line, and answer each with a line of JSON, empty for no error."""
    os.nice(_NICENESS)
    compiler = Compiler(_read_table(sys.stdin.buffer))
    # What the library makes once, all forks share.
    compiler.compile(GrammarSource("json_schema", "{}"))
    _answer("")
    for line in sys.stdin.buffer:
        request = json.loads(line)
        source = GrammarSource(request["kind"], request["text"])
        _answer(_in_a_fork(compiler, source, request["deadline_s"]))


def _read_table(stream: IO[bytes]) -> TokenTable:
    header: dict[str, list[int]] = json.loads(stream.readline())
    tokens = tuple(stream.read(length) for length in header["lengths"])
    return TokenTable(tokens, tuple(header["special"]), tuple(header["end"]))


def _answer(error: str) -> None:
    sys.stdout.buffer.write(json.dumps(error).encode() + b"\n")
    sys.stdout.buffer.flush()


def _in_a_fork(compiler: Compiler, source: GrammarSource, deadline_s: float) -> str:
    """Return why the grammar cannot be used; empty if it can."""
    read_end, write_end = os.pipe()
    fork = os.fork()
    if fork == 0:
        os.close(read_end)
        _limit()
        os.write(write_end, json.dumps(_compile(compiler, source)).encode())
        os._exit(0)
    os.close(write_end)
    is_late = not select.select([read_end], [], [], deadline_s)[0]
    if is_late:
        os.kill(fork, signal.SIGKILL)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    if said:
        return str(json.loads(said))
    if is_late:
        return f"it takes longer than {deadline_s:g} s to compile"
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it takes longer than {MAX_CPU_SECONDS} s of processor time to compile"
    return "it needs more memory or nests deeper than its compiler may"


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = mapped + STACK_BYTES + _MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    # The library says of a failed allocation and of an overflow on stderr what is no line of a log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _compile(compiler: Compiler, source: GrammarSource) -> str:
    errors: list[str] = []
    thread = threading.Thread(target=lambda: errors.append(_error_of(compiler, source)))
    start_on_stack(STACK_BYTES, thread)
    thread.join()
    return errors[0]


def _error_of(compiler: Compiler, source: GrammarSource) -> str:
    try:
        compiler.compile(source)
    except GrammarError as error:
        return str(error)
    return ""


def start_on_stack(num_bytes: int, thread: threading.Thread) -> None:
    """Start a thread with a stack of its own size."""
    before = threading.stack_size(num_bytes)
    try:
        thread.start()
    finally:
        threading.stack_size(before)


if __name__ == "__main__":
    main()
