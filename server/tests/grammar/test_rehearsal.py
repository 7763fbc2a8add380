"""What would hang or kill a worker that compiles it, is found out in a process of its own."""

from __future__ import annotations

import itertools
import os

import pytest

from forebay_worker.grammar.compiler import GrammarError, GrammarSource
from forebay_worker.grammar.rehearsal import Rehearsal

from .vocabulary import TABLE

pytestmark = pytest.mark.timeout(300)
DEADLINE_S = 100.0


@pytest.fixture(scope="module")
def rehearsal():
    rehearsal = Rehearsal(TABLE)
    yield rehearsal
    rehearsal.close()


def within(num_levels: int, kind: str) -> GrammarSource:
    """A Lark grammar of rules, or of terminals, each of which is the next one and a letter."""
    names = [f"{kind}{number}" for number in range(num_levels)]
    rules = [f"{name}: {inner} /[a-z]/" for name, inner in itertools.pairwise(names)]
    return GrammarSource("lark", "\n".join([f"start: {names[0]}", *rules, f"{names[-1]}: /a/"]))


def refusal(rehearsal: Rehearsal, source: GrammarSource, deadline_s: float = DEADLINE_S) -> str:
    with pytest.raises(GrammarError) as error:
        rehearsal.check(source, deadline_s)
    return str(error.value)


def test_a_grammar_that_can_be_used_passes_and_another_is_refused_with_the_compilers_reason(rehearsal: Rehearsal):
    rehearsal.check(GrammarSource("regex", "[a-z]+"), DEADLINE_S)
    assert "unclosed group" in refusal(rehearsal, GrammarSource("regex", "("))


def test_terminals_within_terminals_that_compile_for_minutes_are_stopped(rehearsal: Rehearsal):
    assert "2 s of processor time" in refusal(rehearsal, within(1500, "T"))
    rehearsal.check(GrammarSource("regex", "a"), DEADLINE_S)


def test_a_deadline_is_kept_and_told(rehearsal: Rehearsal):
    assert refusal(rehearsal, within(1500, "T"), 0.01) == "it takes longer than 0.01 s to compile"


def test_rules_within_rules_that_overflow_a_stack_cost_a_fork_alone(rehearsal: Rehearsal):
    assert "nests deeper" in refusal(rehearsal, within(30_000, "r"))
    rehearsal.check(GrammarSource("regex", "a"), DEADLINE_S)


def test_a_child_that_is_gone_is_replaced_for_the_next_grammar(rehearsal: Rehearsal):
    rehearsal.check(GrammarSource("regex", "a"), DEADLINE_S)
    child = rehearsal._child
    assert child is not None
    os.kill(child.pid, 9)
    child.wait()
    assert "try again" in refusal(rehearsal, GrammarSource("regex", "a"))
    rehearsal.check(GrammarSource("regex", "a"), DEADLINE_S)
