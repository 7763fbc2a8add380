"""A vocabulary of printable ASCII, a token a character: id 0 is a space, 94 a tilde, and 95, the last, ends a text."""

from __future__ import annotations

from forebay_worker.grammar.compiler import Compiler, GrammarSource, TokenTable

END = 95
TABLE = TokenTable((*(bytes([32 + number]) for number in range(95)), b"<end>"), (END,), (END,))


def ids(text: str) -> list[int]:
    return [ord(character) - 32 for character in text]


def text_of(token_ids: list[int]) -> str:
    """What ids say, up to an end."""
    return "".join("$" if number == END else chr(32 + number) for number in token_ids)


def takes(kind: str, source: str, text: str) -> bool:
    """Whether a grammar takes a text as whole."""
    matcher = Compiler(TABLE).compile(GrammarSource(kind, source))
    return bool(matcher.consume_tokens(ids(text))) and matcher.is_accepting()
