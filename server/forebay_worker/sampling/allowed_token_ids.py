"""Allowed tokens: where a row lists some, only those can be chosen. R = rows, V = vocabulary."""

from __future__ import annotations

import numpy as np
import torch

from forebay_worker.sampling.rows import SamplingRows, row_ids


def keep_allowed_tokens(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Set all but the allowed ids of rows that have such a list to -inf. Modifies `logits_RV`."""
    if not rows.allowed_token_ids:
        return
    at = tuple(torch.from_numpy(index).to(logits_RV.device) for index in row_ids(rows.allowed_token_ids))
    kept = logits_RV[at]
    limited = torch.from_numpy(np.fromiter(rows.allowed_token_ids, np.int64)).to(logits_RV.device)
    logits_RV[limited] = -torch.inf
    logits_RV[at] = kept
