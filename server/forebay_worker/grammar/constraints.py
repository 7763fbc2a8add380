"""Which tokens sequences with a grammar may have next: worked out on a thread of its own while the model computes.

A sequence's matcher moves on when its token is known, at the end of a step, and the mask of the next step is filled
while that step's forward pass runs. V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from forebay_worker.grammar.compiler import GrammarError, error_of
from forebay_worker.grammar.store import GrammarStore

if TYPE_CHECKING:
    from llguidance import LLMatcher

Bool = npt.NDArray[np.bool_]


class Constraints:
    """The grammars of the sequences in their slots. Of the step thread alone, but for the masks' own thread."""

    def __init__(self, store: GrammarStore, vocab_size: int) -> None:
        """Start no thread before the first sequence with a grammar."""
        self._store = store
        self._vocab_size = vocab_size
        self._by_slot: dict[int, tuple[LLMatcher | None, Future[Bool]]] = {}
        self._threads: ThreadPoolExecutor | None = None

    def __bool__(self) -> bool:
        """Whether any sequence has a grammar."""
        return bool(self._by_slot)

    def begin(self, slot: int, grammar_id: str, generated_ids: Iterable[int]) -> None:
        """A sequence appears: its grammar takes what has been generated of it in an earlier life."""
        matcher = self._store.matcher(grammar_id)
        if matcher is None:
            unknown: Future[Bool] = Future()
            unknown.set_exception(GrammarError(f"grammar `{grammar_id}` is not prepared"))
            self._by_slot[slot] = None, unknown
            return
        self._move(slot, matcher, list(generated_ids))

    def advance(self, slot: int, token_id: int) -> None:
        """Let a sequence's grammar take the token that was chosen; does nothing for one without."""
        matcher, _ = self._by_slot.get(slot, (None, None))
        if matcher is not None:
            self._move(slot, matcher, [token_id])

    def end(self, slots: Iterable[int]) -> None:
        """Sequences are gone."""
        for slot in slots:
            self._by_slot.pop(slot, None)

    def masks(self, slots: Mapping[int, int]) -> tuple[dict[int, Bool], dict[int, str]]:
        """Wait for the masks of rows, given as row to slot.

        Returns: the tokens [V] that each row must not have; and for rows whose grammar has failed, or that have none,
        why.
        """
        forbidden: dict[int, Bool] = {}
        errors: dict[int, str] = {}
        for row, slot in slots.items():
            if slot not in self._by_slot:
                errors[row] = "the row needs a mask, but its sequence has no grammar"
                continue
            try:
                forbidden[row] = self._by_slot[slot][1].result()
            except GrammarError as error:
                errors[row] = f"the grammar cannot go on: {error}"
        return forbidden, errors

    def _move(self, slot: int, matcher: LLMatcher, token_ids: list[int]) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, "masks", self._store.unbind)
        self._by_slot[slot] = matcher, self._threads.submit(self._next_mask, matcher, token_ids)

    def _next_mask(self, matcher: LLMatcher, token_ids: list[int]) -> Bool:
        """Take tokens, then say which must not follow. Raises: GrammarError if a limit is reached."""
        # A step that was planned before the end was known has a row more.
        if not matcher.is_stopped():
            matcher.consume_tokens(token_ids)
        # One bit a token, lowest first, in whole words.
        words = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        if (error := error_of(matcher)) is not None:
            raise GrammarError(error)
        allowed: Bool = np.unpackbits(words, count=self._vocab_size, bitorder="little").view(np.bool_)
        return ~allowed
