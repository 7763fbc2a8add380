"""How often each token stands in a row's text: what the additive penalties count by.

Made anew each step from the ids that the worker holds, so that a sequence that comes back after a preemption or a
restart is penalised exactly as if it had never left. P = penalised rows, N = (row, id) pairs, V = vocabulary.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from forebay_worker.sampling.rows import F32, I64, SamplingRows


@dataclasses.dataclass(frozen=True)
class TokenCounts:
    """The distinct tokens of some rows, ascending by row and id."""

    rows_N: I64
    ids_N: I64
    counts_N: I64


def count_tokens(rows: SamplingRows, counted_P: I64, starts_P: I64, vocab_size: int) -> TokenCounts:
    """Count the tokens of the rows `counted_P` from position `starts_P` on."""
    lengths_P = rows.positions_R[counted_P] - starts_P
    ends_P = np.cumsum(lengths_P)
    rows_T = np.repeat(counted_P, lengths_P)
    positions_T = np.arange(rows_T.size) + np.repeat(starts_P - (ends_P - lengths_P), lengths_P)
    ids_T = rows.token_ids_SL[rows.slots_R[rows_T], positions_T]
    keys_N, counts_N = np.unique(rows_T * vocab_size + ids_T, return_counts=True)
    rows_N, ids_N = np.divmod(keys_N, vocab_size)
    return TokenCounts(rows_N, ids_N, counts_N)


def subtract_at(logits_RV: torch.Tensor, counts: TokenCounts, amounts_N: F32) -> None:
    """Subtract an amount from the logit of each pair. Modifies `logits_RV`."""
    arrays = (counts.rows_N, counts.ids_N, amounts_N)
    rows_N, ids_N, amounts = (torch.from_numpy(array).to(logits_RV.device) for array in arrays)
    logits_RV[rows_N, ids_N] -= amounts
