"""Grammars in the executor: on a toy decoder, whose text is noise unless something limits it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from toy import CAPABILITIES, LAST, Plans, ToyCache, ToyModel, generate, new_sequence

from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.executor import Executor
from forebay_worker.grammar.compiler import GrammarError, GrammarSource
from forebay_worker.grammar.store import GrammarStore
from forebay_worker.plan import RowFlag, SequenceErrorKind

from .vocabulary import END, TABLE, text_of

pytestmark = pytest.mark.timeout(300)
MASKED = RowFlag.SAMPLES | RowFlag.NEEDS_MASK
LAST_MASKED = LAST | RowFlag.NEEDS_MASK
PROMPT = [5, 6, 7, 8, 9]
BLOCKS = list(range(1, 17))
WORDS = "[a-z]{2,5}( [A-Z]{3}){2,20}!"


@pytest.fixture(scope="module")
def store():
    store = GrammarStore()
    store.set_token_table(TABLE)
    store.prepare("words", GrammarSource("regex", WORDS), 100.0)
    store.prepare("abc", GrammarSource("regex", "abc"), 100.0)
    yield store
    assert store._tools is not None
    store._tools[0].close()


def executor_of(store: GrammarStore) -> Executor:
    return Executor(ToyModel(), ToyCache(), ProcessGroup(), CAPABILITIES, store)  # type: ignore[arg-type]


def run(executor: Executor, num_tokens: int, known: list[int] | None = None, **sampling: Any) -> list[int]:
    """The text of one sequence with a grammar; of a `known` one what comes after that."""
    known, plans = known or [], Plans()
    new = new_sequence(0, PROMPT + known, BLOCKS, num_prompt_tokens=len(PROMPT), **sampling)
    results = [executor.execute(plans(new=[new], chunks=[(0, 1, len(new.token_ids), LAST_MASKED)]))]
    while len(results) < num_tokens - len(known) and results[-1].token_ids[0] != END:
        results.append(executor.execute(plans(decodes=[(0, 1, MASKED)])))
    return [int(result.token_ids[0]) for result in results]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 2.0, "top_k": 5}], ids=str)
def test_a_text_is_the_grammars_and_ends_by_the_end_token(store: GrammarStore, sampling: dict[str, Any]):
    text = text_of(run(executor_of(store), 100, grammar_id="words", **sampling))
    assert re.fullmatch(WORDS + r"\$", text) or (
        len(text) == 100 and text.startswith(tuple("abcdefghijklmnopqrstuvwxyz"))
    )


def test_a_grammar_that_is_whole_leaves_nothing_but_the_end(store: GrammarStore):
    assert text_of(run(executor_of(store), 10, grammar_id="abc")) == "abc$"


def test_a_sequence_that_comes_back_goes_on_where_its_grammar_stood(store: GrammarStore):
    options = {"grammar_id": "words", "temperature": 1.0, "seed": 7}
    whole = run(executor_of(store), 30, **options)
    for cut in (1, 3, len(whole) - 1):
        assert whole[:cut] + run(executor_of(store), 30, whole[:cut], **options) == whole


def test_neighbours_without_a_grammar_or_with_another_are_as_alone(store: GrammarStore):
    executor, plans = executor_of(store), Plans()
    others = [20, 21, 22]
    a = new_sequence(0, PROMPT, BLOCKS[:4], grammar_id="words", temperature=1.0, seed=7)
    b = new_sequence(1, others, BLOCKS[4:8], temperature=1.0, seed=8)
    c = new_sequence(2, PROMPT, BLOCKS[8:12], grammar_id="abc")
    chunks = [(0, 1, 5, LAST_MASKED), (1, 1, 3, LAST), (2, 1, 5, LAST_MASKED)]
    results = [executor.execute(plans(new=[a, b, c], chunks=chunks))]
    decodes = [(0, 1, MASKED), (1, 1, RowFlag.SAMPLES), (2, 1, MASKED)]
    results += [executor.execute(plans(decodes=decodes)) for _ in range(5)]
    texts = list(zip(*(result.token_ids.tolist() for result in results), strict=True))
    assert list(texts[0]) == run(executor_of(store), 6, grammar_id="words", temperature=1.0, seed=7)
    assert list(texts[1]) == generate(others, 6, temperature=1.0, seed=8)
    assert text_of(list(texts[2])) == "abc$$$"


def test_a_slot_that_is_taken_anew_has_its_new_tenants_grammar(store: GrammarStore):
    executor, plans = executor_of(store), Plans()
    first = new_sequence(0, PROMPT, BLOCKS[:4], grammar_id="words")
    executor.execute(plans(new=[first], chunks=[(0, 1, 5, LAST_MASKED)]))
    second = new_sequence(0, PROMPT, BLOCKS[:4], epoch=2)
    plain = executor.execute(plans(released=[(0, 1)], new=[second], chunks=[(0, 2, 5, LAST)]))
    assert plain.token_ids.tolist() == generate(PROMPT, 1)
    assert not executor._constraints


def test_options_limit_the_choice_together_with_the_grammar(store: GrammarStore):
    vowels = (*(ord(letter) - 32 for letter in "aeiou AEIOU!"), END)
    text = text_of(run(executor_of(store), 60, grammar_id="words", allowed_token_ids=vowels, temperature=1.0))
    assert set(text) <= set("aeiou AEIOU!$")
    biased = run(executor_of(store), 4, grammar_id="words", logit_bias_ids=(90,), logit_bias_values=(100.0,))
    assert text_of(biased)[:2] == "zz"


def test_a_row_that_nothing_is_left_to_fails_alone_and_says_so(store: GrammarStore):
    executor, plans = executor_of(store), Plans()
    a = new_sequence(0, PROMPT, BLOCKS[:4], grammar_id="abc", allowed_token_ids=(90,))
    b = new_sequence(1, PROMPT, BLOCKS[4:8])
    result = executor.execute(plans(new=[a, b], chunks=[(0, 1, 5, LAST_MASKED), (1, 1, 5, LAST)]))
    assert result.token_ids.tolist() == generate(PROMPT, 1)
    assert "the grammar together forbid every token" in result.errors[0].message


def test_a_grammar_that_is_not_prepared_fails_its_sequence_alone(store: GrammarStore):
    executor, plans = executor_of(store), Plans()
    a = new_sequence(0, PROMPT, BLOCKS[:4], grammar_id="lost")
    b = new_sequence(1, PROMPT, BLOCKS[4:8], grammar_id="abc")
    result = executor.execute(plans(new=[a, b], chunks=[(0, 1, 5, LAST_MASKED), (1, 1, 5, LAST_MASKED)]))
    assert [(error.slot, error.kind) for error in result.errors] == [(0, SequenceErrorKind.GRAMMAR)]
    assert "`lost` is not prepared" in result.errors[0].message
    assert text_of(result.token_ids.tolist()) == "a"


def test_a_grammar_beyond_the_limits_in_mid_text_fails_its_sequence_alone(store: GrammarStore):
    ambiguous = 'start: e\ne: e e | e e e | e e e e | "a"'
    store.prepare("ambiguous", GrammarSource("lark", ambiguous), 100.0)
    executor, plans = executor_of(store), Plans()
    new = new_sequence(0, PROMPT, BLOCKS, grammar_id="ambiguous", allowed_token_ids=(ord("a") - 32,))
    other = new_sequence(1, PROMPT, [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35])
    result = executor.execute(plans(new=[new, other], chunks=[(0, 1, 5, LAST_MASKED), (1, 1, 5, LAST)]))
    for _ in range(58):
        if result.errors:
            break
        result = executor.execute(plans(decodes=[(0, 1, MASKED), (1, 1, RowFlag.SAMPLES)]))
    assert [error.kind for error in result.errors] == [SequenceErrorKind.GRAMMAR]
    assert result.errors[0].message.startswith("the grammar cannot go on: ")
    assert result.slots.tolist() == [1]


def test_dropped_grammars_are_forgotten_and_running_sequences_keep_theirs(store: GrammarStore):
    store.prepare("short", GrammarSource("regex", "xy"), 100.0)
    executor, plans = executor_of(store), Plans()
    new = new_sequence(0, PROMPT, BLOCKS, grammar_id="short")
    results = [executor.execute(plans(new=[new], chunks=[(0, 1, 5, LAST_MASKED)]))]
    store.drop(["short", "never there"])
    assert store.matcher("short") is None
    results += [executor.execute(plans(decodes=[(0, 1, MASKED)])) for _ in range(2)]
    assert text_of([int(result.token_ids[0]) for result in results]) == "xy$"


def test_without_a_token_table_or_an_end_token_no_grammar_can_be_prepared():
    store = GrammarStore()
    with pytest.raises(GrammarError, match="no token table"):
        store.prepare("g", GrammarSource("regex", "a"), 100.0)
    store.set_token_table(TABLE.__class__(TABLE.tokens, (), ()))
    with pytest.raises(GrammarError, match="no end token"):
        store.prepare("g", GrammarSource("regex", "a"), 100.0)
