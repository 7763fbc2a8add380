"""A hundred grammars that are meant to hurt their compiler: deep, wide, circular, ambiguous or plain wrong.

Each is `(name, kind, source)`; kinds as vLLM's `structured_outputs` names them: `json`, `regex` and `grammar`.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator
from typing import Any

Hostile = tuple[str, str, str]


def hostile_grammars() -> list[Hostile]:
    """All of them, in a fixed order."""
    return [*_regexes(), *_schemas(), *_larks()]


def _regexes() -> Iterator[Hostile]:
    for depth in (10, 200, 3000, 30_000):
        yield f"{depth} nested groups", "regex", "(" * depth + "a" + ")" * depth
        yield f"{depth} open groups", "regex", "(" * depth
        yield f"{depth} nested optionals", "regex", "(" * depth + "a" + "?b)*" * depth
    for inner, outer in ((1000, 1000), (100, 100_000), (65_535, 65_535), (4_000_000_000, 2)):
        yield f"a repeated {inner} times {outer}", "regex", f"(a{{{inner}}}){{{outer}}}"
    for depth in (5, 12, 30):
        yield f"{depth} nested repetitions of ten", "regex", "(" * depth + "a" + "){10,20}" * depth
    for count in (20, 25, 2000):
        yield f"a choice {count} places from the end", "regex", f"(a|b)*a(a|b){{{count}}}"
    for count in (30, 300, 3000):
        yield f"{count} optional letters before as many", "regex", "a?" * count + "a" * count
    yield "unicode classes repeated", "regex", r"(\p{L}|\p{N}|\p{S}){1,5000}x"
    yield "all of unicode intersected", "regex", r"[\p{Greek}&&\p{Lu}&&[^\p{ASCII}]]{2000}"
    for word in (r"(?=a)b", r"(?!a)b", r"(?<=a)b", r"(a)\1", r"(?P<n>a)(?P=n)", r"a\b", r"(?>a)b", r"a*+", "^*", "$a^"):
        yield f"an unsupported construct {word}", "regex", word
    for word in ("[", "(", ")", "*", "a{2,1}", "[z-a]", "\\", r"\q", "(?P<", r"\p{Nothing}", "a{99999999999}", "(?z)a"):
        yield f"a syntax error {word}", "regex", word
    yield "many alternatives of one prefix", "regex", "|".join(f"{'a' * (n % 90)}{n}" for n in range(1500)) + "|("


def _schemas() -> Iterator[Hostile]:
    for name, schema in _bad_schemas():
        yield name, "json", json.dumps(schema)
    for depth in (64, 120):
        yield f"{depth} nested arrays of nothing", "json", _nested("items", depth, {"not": {}})


def _bad_schemas() -> Iterator[tuple[str, Any]]:
    for keyword, value in (
        ("not", {"type": "string"}),
        ("if", {"type": "string"}),
        ("dependentSchemas", {"a": {"type": "object"}}),
        ("dependentRequired", {"a": ["b"]}),
        ("contains", {"type": "string"}),
        ("uniqueItems", True),
        ("propertyNames", {"pattern": "^a"}),
        ("unevaluatedProperties", False),
        ("unevaluatedItems", False),
        ("contentEncoding", "base64"),
        ("$dynamicRef", "#meta"),
        ("format", "no-such-format"),
        ("type", "nothing"),
        ("type", 5),
        ("type", []),
        ("enum", []),
        ("enum", "a"),
        ("pattern", "("),
        ("pattern", "(?=a)b"),
        ("minLength", -1),
        ("required", "a"),
        ("properties", []),
        ("items", 5),
        ("prefixItems", {}),
        ("multipleOf", 0),
        ("$ref", "#/$defs/missing"),
        ("$ref", "https://example.com/schema.json"),
        ("$ref", "file:///etc/passwd"),
        ("anyOf", []),
        ("oneOf", [{"type": "integer"}, {"type": "number"}]),
        ("allOf", [{"type": "string"}, {"type": "integer"}]),
    ):
        yield f"{keyword} {json.dumps(value)[:30]}", {keyword: value}
    yield "a reference to itself", {"$ref": "#"}
    yield (
        "a circle of references",
        {
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            "$ref": "#/$defs/a",
        },
    )
    yield "a circle through allOf", {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}
    for depth in (8, 16):
        yield f"{depth} levels of oneOf", _one_ofs(depth)
    yield "allOf of overlapping anyOfs", {"allOf": [_any_of(n) for n in range(10)]}
    yield "an impossible length", {"type": "string", "minLength": 10, "maxLength": 2}
    yield "an impossible range", {"type": "integer", "minimum": 10, "maximum": 2}
    yield "a pattern of great length", {"type": "string", "pattern": "^(a{1000}){1000}$"}
    yield "a pattern that must be long", {"type": "string", "pattern": "^(a|b)*a(a|b){40}$", "minLength": 100_000}
    yield "a million items", {"type": "array", "minItems": 1_000_000, "maxItems": 1_000_001}
    yield "too many properties at least", {"type": "object", "minProperties": 1_000_000}
    yield "a multiple of many digits", {"type": "number", "multipleOf": 1e-9, "minimum": 0, "maximum": 1e9}
    yield "a divisor of many digits", {"type": "integer", "multipleOf": 982_451_653}


def _nested(keyword: str, depth: int, innermost: Any) -> str:
    """As text: nesting like this is deeper than Python's own encoder likes."""
    return f'{{"{keyword}": ' * depth + json.dumps(innermost) + "}" * depth


def _one_ofs(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for level in range(depth):
        schema = {"oneOf": [schema, {"type": "object", "properties": {f"p{level}": schema}}, {"minLength": level}]}
        if len(json.dumps(schema)) > 30_000:
            break
    return schema


def _any_of(number: int) -> dict[str, Any]:
    return {"anyOf": [{"properties": {f"p{number}_{n}": {"type": "string"}}} for n in range(10)]}


def _larks() -> Iterator[Hostile]:
    yield "no start rule", "grammar", "rule: /a/"
    yield "a rule that is only itself", "grammar", "start: start"
    yield "two rules that are each other", "grammar", "start: a\na: b\nb: a"
    yield "an unknown rule", "grammar", "start: missing"
    yield "an unknown terminal", "grammar", "start: MISSING"
    yield "a terminal that is itself", "grammar", "start: A\nA: A"
    yield "an unfinished string", "grammar", 'start: "a'
    yield "a broken regex", "grammar", "start: /(/"
    yield "a broken range", "grammar", 'start: "a"{5,2}'
    yield "an import from nowhere", "grammar", "%import nowhere.THING\nstart: THING"
    yield "nested groups in a rule", "grammar", "start: " + "(" * 20_000 + '"a"' + ")" * 20_000
    yield "a schema inside that is wrong", "grammar", 'start: %json {"type": "nothing"}'
    for kind in ("r", "T"):
        names = [f"{kind}{number}" for number in range(1500)]
        rules = [f"{name}: {inner} /[a-z]/" for name, inner in itertools.pairwise(names)]
        yield f"{kind} within {kind}", "grammar", "\n".join([f"start: {names[0]}", *rules, f"{names[-1]}: /a/"])
    yield "rules within rules", "grammar", _short_rules(8000)
    yield "an endless repetition", "grammar", "start: " + "(" * 12 + '"a"' + "){10,20}" * 12


def _short_rules(num_rules: int) -> str:
    """Each rule is the next: as many as 64 KiB hold."""
    letters = string.ascii_lowercase
    names = ["".join(name) for length in (1, 2, 3) for name in itertools.product(letters, repeat=length)][:num_rules]
    return "\n".join([f"start:{names[0]}", *(":".join(pair) for pair in itertools.pairwise(names)), f"{names[-1]}:/a/"])
