"""The best token of each row. R = rows, V = vocabulary."""

from __future__ import annotations

import torch

_BLOCK = 128


def best_token(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's highest logit [R] and the lowest id that has it [R, int64]; NaN wins over every number.

    In two levels, since a reduction that also tracks indices is not vectorised on CPU: for 32 rows of 49,152 the
    maximum of blocks and then a search in one block takes 0.1 ms, `max(dim=-1)` 0.9 ms (2 cores).
    """
    num_rows, vocab_size = logits_RV.shape
    if vocab_size % _BLOCK or not logits_RV.is_contiguous():
        best = logits_RV.max(dim=-1)
        return best.values, best.indices
    blocks_RNB = logits_RV.view(num_rows, -1, _BLOCK)
    block_R = blocks_RNB.amax(dim=-1).argmax(dim=-1)
    rows_R = torch.arange(num_rows, device=logits_RV.device)
    best = blocks_RNB[rows_R, block_R].max(dim=-1)
    return best.values, block_R * _BLOCK + best.indices
