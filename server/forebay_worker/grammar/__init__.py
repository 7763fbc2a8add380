"""Grammars: what limits a sequence's tokens to texts of a schema, an expression, a list or a Lark grammar."""
