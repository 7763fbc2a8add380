"""Grammars: where a row has one, only tokens that go on with its text can be chosen. R = rows, V = vocabulary."""

from __future__ import annotations

import torch

from forebay_worker.sampling.rows import SamplingRows


def forbid_by_grammar(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Set what the grammars of rows forbid to -inf. Modifies `logits_RV`."""
    for row, forbidden_V in rows.grammar_masks.items():
        logits_RV[row].masked_fill_(torch.from_numpy(forbidden_V).to(logits_RV.device), -torch.inf)
