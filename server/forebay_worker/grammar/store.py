"""The grammars of one worker: grpc's threads prepare them, the step thread looks them up.

Which are kept is the router's to say.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from queue import SimpleQueue
from typing import TYPE_CHECKING

from forebay_worker.grammar.compiler import Compiler, GrammarError, GrammarSource, TokenTable
from forebay_worker.grammar.rehearsal import STACK_BYTES, Rehearsal, start_on_stack

if TYPE_CHECKING:
    from llguidance import LLMatcher

log = logging.getLogger(__name__)

# Steps of the model come first, also before a grammar that is known to compile in bounded time.
_NICENESS = 5


def is_available() -> bool:
    """Whether the grammar library is installed."""
    return importlib.util.find_spec("llguidance") is not None


class GrammarStore:
    """Prepared grammars by their id. Any thread may call any of it."""

    def __init__(self, cores: Collection[int] | None = None) -> None:
        """Start nothing before the first grammar. `cores`: where its threads may run; None: anywhere."""
        self._cores = cores
        self._table: TokenTable | None = None
        self._prepared: dict[str, LLMatcher] = {}
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._start_lock = threading.Lock()
        self._is_started = False
        # Of the compiling thread alone.
        self._tools: tuple[Rehearsal, Compiler] | None = None

    def set_token_table(self, table: TokenTable) -> None:
        """Take the vocabulary that grammars are compiled over; the first one counts."""
        self._table = self._table or table

    def prepare(self, grammar_id: str, source: GrammarSource, deadline_s: float) -> None:
        """Compile a grammar on the compiling thread, one after the other, and keep it under its id.

        `deadline_s`: of its rehearsal.
        Raises: GrammarError with the reason if it cannot be used.
        """
        self._start()
        errors: list[Exception] = []
        done = threading.Event()

        def work() -> None:
            try:
                self._prepared[grammar_id] = self._compile(source, deadline_s)
            except Exception as error:
                errors.append(error)
            done.set()

        self._orders.put(work)
        done.wait()
        if errors:
            raise errors[0]

    def drop(self, grammar_ids: list[str]) -> None:
        """Forget grammars; sequences that are in the middle of one keep theirs."""
        for grammar_id in grammar_ids:
            self._prepared.pop(grammar_id, None)

    def matcher(self, grammar_id: str) -> LLMatcher | None:
        """Return a matcher of one's own at a grammar's beginning; None if it is not prepared."""
        prepared = self._prepared.get(grammar_id)
        return None if prepared is None else prepared.deep_copy()

    def _compile(self, source: GrammarSource, deadline_s: float) -> LLMatcher:
        if self._table is None:
            raise GrammarError("the worker has no token table")
        if not self._table.end_token_ids:
            raise GrammarError("the model has no end token, so that no text of a grammar could end")
        if self._tools is None:
            self._tools = Rehearsal(self._table), Compiler(self._table)
        rehearsal, compiler = self._tools
        started = time.monotonic()
        rehearsal.check(source, deadline_s)
        rehearsed = time.monotonic()
        matcher = compiler.compile(source)
        log.debug(
            "compiled a grammar of %d characters in %.0f ms, after %.0f ms of rehearsal",
            len(source.text),
            (time.monotonic() - rehearsed) * 1000,
            (rehearsed - started) * 1000,
        )
        return matcher

    def _start(self) -> None:
        with self._start_lock:
            if self._is_started:
                return
            self._is_started = True
            # A daemon, so that a worker never waits for it at its end. What compiled in the rehearsal must fit.
            start_on_stack(2 * STACK_BYTES, threading.Thread(target=self._run, name="grammars", daemon=True))

    def unbind(self) -> None:
        """Let the calling thread leave the core of the thread that started it."""
        if self._cores is not None:
            os.sched_setaffinity(0, self._cores)

    def _run(self) -> None:
        self.unbind()
        os.nice(_NICENESS)  # of this thread alone: Linux has it by thread
        while True:
            self._orders.get()()
