"""Grammar sources to matchers, by llguidance; its only importer. No torch, no numpy: the rehearsal imports this too.

llguidance is imported with the first grammar, so that who sends none pays neither for it nor for its token trie.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLMatcher

KINDS = ("json_schema", "regex", "lark", "choices")

# Last in a grammar, so that it wins: forced text is then left to the model's own choice of tokens. Otherwise the
# library would force a tokenization of its own, which needs the tokenizer, and walk all of what is forced: 4 s for
# `(a{1000}){1000}`.
_DIRECTIVE = '\n%llguidance {"no_forcing": true}\n'

# Between any two signs of JSON. Without a bound a small model fills its answer with spaces.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,24}"

# A grammar that breaks the library's limits often does so with its first tokens.
_NUM_REHEARSED_TOKENS = 8

# With these a mask takes 0.02 to 0.5 ms, and 5 ms at worst. Compiling is bounded by the rehearsal, not by them.
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 10_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}

# Of the compiler's words: an expression that is wrong is repeated in them, whole and twice.
_MAX_REASON_CHARACTERS = 600


class GrammarError(Exception):
    """A grammar that cannot be used, with the compiler's reason; its sender's mistake."""


@dataclasses.dataclass(frozen=True)
class GrammarSource:
    """A grammar as it was sent."""

    kind: str
    """One of KINDS."""
    text: str
    """JSON of a schema, an expression, a Lark grammar, or JSON of a list of strings."""


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """What a tokenizer's ids stand for, in order; those without bytes never occur."""

    tokens: tuple[bytes, ...]
    special_token_ids: tuple[int, ...]
    """They stand for no text; a Lark grammar can name them."""
    end_token_ids: tuple[int, ...]
    """One of them ends a text; at least one."""


class Compiler:
    """Compiles grammars over one vocabulary. Not to be used by two threads at once."""

    def __init__(self, table: TokenTable) -> None:
        """Build the token trie: some 20 MB and half a second for 49,152 tokens."""
        from llguidance import LLParserLimits, LLTokenizer

        self._tokenizer = LLTokenizer(_Tokenizer(table), eos_token=list(table.end_token_ids))  # type: ignore[arg-type]
        # What a token may cost grows with the cube of a row's items: 2 ms a byte at 500. Only in a Lark grammar can
        # many rules explain one text; a schema needs four items for each property that may be left out.
        self._limits = {
            kind: LLParserLimits(max_items_in_row=500 if kind == "lark" else 2000, **_LIMITS) for kind in KINDS
        }

    def compile(self, source: GrammarSource) -> LLMatcher:
        """Return a matcher at the grammar's beginning; copies of it are cheap and share what they learn.

        Raises: GrammarError with the reason where it is wrong, beyond the limits, or matches no text.
        """
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, _lark(source) + _DIRECTIVE, log_level=0, limits=self._limits[source.kind])
        if not matcher.is_error():
            _rehearse(matcher.deep_copy())
            return matcher
        raise GrammarError(_reason(matcher))


class _Tokenizer:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, table: TokenTable) -> None:
        self.tokens = list(table.tokens)
        self.special_token_ids = list(table.special_token_ids)
        self.eos_token_id = table.end_token_ids[0]

    def __call__(self, text: str) -> list[int]:
        """Tokenize forced text; with `no_forcing` there is none."""
        return []


def _lark(source: GrammarSource) -> str:
    """Raises: GrammarError for a schema that is no JSON object or truth value, and for no choices."""
    from llguidance import regex_to_lark

    if source.kind == "lark":
        return source.text
    if source.kind == "regex":
        return f"start: /{regex_to_lark(_whole(source.text), use_ascii='')}/"
    if source.kind == "json_schema":
        return f"start: %json {_with_options(source.text)}"
    choices = json.loads(source.text)
    if not choices:
        raise GrammarError("there is no choice")
    return "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)


def _whole(regex: str) -> str:
    """Raises: GrammarError for an expression whose last backslash would take what comes after it."""
    if (len(regex) - len(regex.rstrip("\\"))) % 2:
        raise GrammarError("regex parse error: incomplete escape sequence at the end")
    return regex


def _with_options(schema_text: str) -> str:
    """The schema with the library's options in it; the order of its properties is that of the answer's."""
    schema = json.loads(schema_text)
    if schema is True:
        schema = {}
    if isinstance(schema, dict):
        return json.dumps(schema | {"x-guidance": {"whitespace_pattern": _WHITESPACE}}, ensure_ascii=False)
    return schema_text


def _rehearse(matcher: LLMatcher) -> None:
    """Take a few tokens, so that what fails at once fails here. Raises: GrammarError."""
    for step in range(_NUM_REHEARSED_TOKENS):
        mask = matcher.compute_bitmask()
        if matcher.is_error():
            raise GrammarError(_reason(matcher))
        if matcher.is_stopped() or not matcher.consume_token(_pick(mask, step)):
            break
    if matcher.is_error():
        raise GrammarError(_reason(matcher))


def _pick(mask: bytes, step: int) -> int:
    """Some token that the mask allows, of those above another place each time."""
    start = step * 7919 % len(mask)
    rotated = mask[start:] + mask[:start]
    skipped = len(rotated) - len(rotated.lstrip(b"\0"))
    byte = rotated[skipped]
    return (start + skipped) % len(mask) * 8 + (byte & -byte).bit_length() - 1


def error_of(matcher: LLMatcher) -> str | None:
    """Say what broke a matcher; None for one that is sound."""
    return _reason(matcher) if matcher.is_error() else None


def _reason(matcher: LLMatcher) -> str:
    """The library's words, without excerpts of what we made of the source and its own place in there."""
    words = matcher.get_error().replace("<non-verbose/>", "").strip()
    if "NoExtensionBias" in words:
        return "it matches no text"
    words = re.split(r"\n +\d+ \| ", words)[0]
    words = re.sub(r"^at 1\(\d+\): (failed to compile JSON schema: )?", "", words)
    words = re.sub(r'^(at .*: )?invalid regex ".*" \(in regex\): ', r"\1", words, flags=re.DOTALL)
    if len(words) > _MAX_REASON_CHARACTERS:
        half = _MAX_REASON_CHARACTERS // 2
        words = f"{words[:half]} […] {words[-half:]}"
    return words.strip()
