"""Minimum length: until a sequence has generated enough tokens, those that would end it cannot be chosen.

R = rows, V = vocabulary.
"""

from __future__ import annotations

import torch

from forebay_worker.sampling.rows import SamplingRows, row_ids


def forbid_end_tokens(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Set the end tokens of rows that are too short to -inf. Modifies `logits_RV`."""
    if rows.end_token_ids:
        at = tuple(torch.from_numpy(index).to(logits_RV.device) for index in row_ids(rows.end_token_ids))
        logits_RV[at] = -torch.inf
