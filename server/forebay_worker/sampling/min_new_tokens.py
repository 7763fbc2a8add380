"""Minimum length: until a sequence has generated enough tokens, those that would end it cannot be chosen."""

from __future__ import annotations

import torch

from forebay_worker.sampling.rows import SamplingRows


def forbid_end_tokens(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Set each row's forbidden ids to -inf. Modifies `logits_RV`."""
    for row, ids in rows.forbidden_ids.items():
        logits_RV[row, list(ids)] = -torch.inf
