"""Bad words: runs of tokens that are never generated whole. R = rows, V = vocabulary."""

from __future__ import annotations

import numpy as np
import torch

from forebay_worker.sampling.rows import I64, SamplingRows, row_ids


def forbid_bad_words(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Set to -inf the last token of every run whose beginning stands at the end of what the row has generated.

    Modifies `logits_RV`. Prompt tokens begin no run. Source: vLLM's `bad_words`.
    """
    completing = {row: _completing_ids(rows, row, words) for row, words in rows.bad_words.items()}
    completing = {row: ids for row, ids in completing.items() if ids.size}
    if completing:
        at = tuple(torch.from_numpy(index).to(logits_RV.device) for index in row_ids(completing))
        logits_RV[at] = -torch.inf


def _completing_ids(rows: SamplingRows, row: int, words: tuple[tuple[int, ...], ...]) -> I64:
    start, end = int(rows.num_prompt_R[row]), int(rows.positions_R[row])
    # Only as much of the text as the longest run can have: a long one is not copied a step.
    start = max(start, end - max(len(word) for word in words) + 1)
    tail = tuple(rows.token_ids_SL[rows.slots_R[row], start:end].tolist())
    return np.array([word[-1] for word in words if tail[max(0, len(tail) - len(word) + 1) :] == word[:-1]], np.int64)
