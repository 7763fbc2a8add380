"""Repetition penalty: tokens that the sequence already holds, prompt or generated, become less likely.

P = penalised rows, L = their longest known sequence, V = vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch

from forebay_worker.sampling.rows import I64, SamplingRows

# What is stronger could overflow, and would choose no other token.
_STRONGEST = np.float32(1e9)


def apply_repetition_penalty(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Divide positive logits of known tokens by the row's penalty, multiply negative ones. Modifies `logits_RV`.

    Source: arXiv 1909.05858, section 4.1, with the sign rule of transformers' RepetitionPenaltyLogitsProcessor.
    """
    penalised_P = np.flatnonzero(rows.repetition_penalty_R != 1.0)
    if not penalised_P.size:
        return
    device = logits_RV.device
    rows_P1 = torch.from_numpy(penalised_P).to(device)[:, None]
    ids_PL = torch.from_numpy(_known_ids(rows, penalised_P)).to(device)
    penalty_P = rows.repetition_penalty_R[penalised_P].clip(1 / _STRONGEST, _STRONGEST)
    penalty_P1 = torch.from_numpy(penalty_P).to(device)[:, None]
    scores_PL = logits_RV[rows_P1, ids_PL]
    logits_RV[rows_P1, ids_PL] = torch.where(scores_PL < 0, scores_PL * penalty_P1, scores_PL / penalty_P1)


def _known_ids(rows: SamplingRows, penalised_P: I64) -> I64:
    """Ids of each row, filled up with its own first one: to write a token's score twice changes nothing."""
    lengths_P = rows.positions_R[penalised_P]
    slots_P = rows.slots_R[penalised_P]
    ids_PL = rows.token_ids_SL[slots_P, : int(lengths_P.max())].astype(np.int64)
    beyond_PL = np.arange(ids_PL.shape[1])[None, :] >= lengths_P[:, None]
    return np.where(beyond_PL, ids_PL[:, :1], ids_PL)
