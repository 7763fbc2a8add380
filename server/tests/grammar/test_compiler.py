"""What grammars take, and what is said of those that cannot be used."""

from __future__ import annotations

import json

import pytest

from forebay_worker.grammar.compiler import Compiler, GrammarError, GrammarSource, TokenTable

from .vocabulary import END, TABLE, ids, takes

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("kind", "source", "taken", "refused"),
    [
        ("json_schema", json.dumps(PERSON), '{"name": "A", "age": 3}', '{"age": 3, "name": "A"}'),
        ("json_schema", json.dumps(PERSON), '{\n  "name": "A",\n  "age": 3\n}'.replace("\n", " "), '{"name": "A"}'),
        ("json_schema", '{"type": "object"}', '{"a": [1, {"b": null}]}', "[1]"),
        ("json_schema", "true", "[1, 2]", "1 2"),
        ("json_schema", '{"enum": ["a", 1]}', '"a"', "a"),
        ("regex", r"[0-9]{3}-(a|b)/c", "123-b/c", "12-b/c"),
        ("regex", 'a"b', 'a"b', "ab"),
        ("regex", "", "", "a"),
        ("choices", '["yes", "no \\"way\\""]', 'no "way"', "no"),
        ("lark", 'start: number ("+" number)*\nnumber: /[0-9]+/', "1+22+3", "1+"),
        ("lark", '%llguidance {"no_forcing": false}\nstart: "abc"', "abc", "ab"),
    ],
)
def test_a_grammar_takes_its_texts_and_no_others(kind: str, source: str, taken: str, refused: str):
    assert takes(kind, source, taken)
    assert not takes(kind, source, refused)


def test_properties_come_in_the_schemas_order():
    swapped = {**PERSON, "properties": dict(reversed(PERSON["properties"].items()))}
    assert takes("json_schema", json.dumps(swapped), '{"age": 3, "name": "A"}')


def test_spaces_in_json_are_bounded():
    assert takes("json_schema", "true", "[1," + 24 * " " + "2]")
    assert not takes("json_schema", "true", "[1," + 25 * " " + "2]")


def test_of_forced_text_every_cut_into_tokens_is_allowed():
    table = TokenTable((*TABLE.tokens[:-1], b"<end>", b"ab", b"abc"), (END,), (END,))
    mask = Compiler(table).compile(GrammarSource("regex", "abc")).compute_bitmask()
    allowed = {number for number in range(98) if mask[number // 8] >> number % 8 & 1}
    assert allowed == {*ids("a"), 96, 97}


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("regex", "(a", "unclosed group"),
        ("regex", "a\\", "incomplete escape sequence"),
        ("regex", "(?=a)b", "look-around"),
        ("regex", "(a)\\1", "backreferences are not supported"),
        ("json_schema", '{"not": {}}', 'Unimplemented keys: ["not"]'),
        ("json_schema", '{"items": {"uniqueItems": true}}', 'Unimplemented keys: ["uniqueItems"]'),
        ("json_schema", '{"format": "no-such"}', "Unknown format: no-such"),
        ("json_schema", '{"$ref": "file:///etc/passwd"}', "does not fetch resources"),
        ("json_schema", '{"$ref": "#"}', "it matches no text"),
        ("json_schema", "5", "schema must be an object or boolean"),
        ("choices", "[]", "there is no choice"),
        ("lark", "start: missing", 'unknown name: "missing"'),
        ("lark", "rule: /a/", "no start rule found"),
        ("regex", "a?" * 3000 + "a" * 3000, "too many expressions constructed"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(kind: str, source: str, words: str):
    with pytest.raises(GrammarError) as refusal:
        Compiler(TABLE).compile(GrammarSource(kind, source))
    assert words in str(refusal.value)
    assert "no_forcing" not in str(refusal.value)


def test_a_long_expression_is_not_repeated_whole_in_its_refusal():
    with pytest.raises(GrammarError) as refusal:
        Compiler(TABLE).compile(GrammarSource("regex", "a" * 50_000 + "("))
    assert len(str(refusal.value)) < 700
    assert "unclosed group" in str(refusal.value)
