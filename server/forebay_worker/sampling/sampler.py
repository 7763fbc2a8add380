"""The pipeline from logits to ids, whole batches at a time. R = rows, V = vocabulary.

Order: repetition penalty, minimum length, temperature, top-k, top-p, noise. Greedy rows stop after the masks. A row's
id depends on its own logits and options alone, whatever rows stand beside it.
"""

from __future__ import annotations

import numpy as np
import torch

from forebay_kernels.ops.sampling_noise import gumbel_argmax
from forebay_worker.sampling.greedy import best_token
from forebay_worker.sampling.min_new_tokens import forbid_end_tokens
from forebay_worker.sampling.repetition_penalty import apply_repetition_penalty
from forebay_worker.sampling.rows import I64, SamplingRows
from forebay_worker.sampling.temperature import apply_temperature
from forebay_worker.sampling.truncation import truncate

NUMERICAL_FAILURE = -1


def sample(logits_RV: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """Choose an id a row. Returns: int64 [R], `NUMERICAL_FAILURE` where a row's logits are NaN or infinite.

    Modifies `logits_RV` (float32, contiguous): on return it holds what the choice was made from, that is, logits
    after penalties, masks, temperature and truncation.
    """
    best_R, ids_R = best_token(logits_RV)
    sound_R = torch.isfinite(best_R)
    if not rows.is_plain_greedy:
        if not bool(sound_R.all()):
            logits_RV[~sound_R] = 0.0
        ids_R = _choose(logits_RV, rows)
    return torch.where(sound_R, ids_R, NUMERICAL_FAILURE)


def _choose(logits_RV: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    apply_repetition_penalty(logits_RV, rows)
    forbid_end_tokens(logits_RV, rows)
    draws_D = np.flatnonzero(rows.temperature_R)
    if draws_D.size == rows.temperature_R.size:
        return _draw(logits_RV, rows, draws_D)
    _, ids_R = best_token(logits_RV)
    if draws_D.size:
        index_D = torch.from_numpy(draws_D).to(logits_RV.device)
        logits_DV = logits_RV[index_D]
        ids_R[index_D] = _draw(logits_DV, rows, draws_D)
        logits_RV[index_D] = logits_DV
    return ids_R


def _draw(logits_DV: torch.Tensor, rows: SamplingRows, draws_D: I64) -> torch.Tensor:
    """Draw for the rows `draws_D`, whose logits alone are in `logits_DV`. Modifies `logits_DV`."""
    device = logits_DV.device
    apply_temperature(logits_DV, rows.temperature_R[draws_D])
    top_k_D, top_p_D = rows.top_k_R[draws_D], rows.top_p_R[draws_D]
    if top_k_D.any() or (top_p_D < 1.0).any():
        truncate(logits_DV, torch.from_numpy(top_k_D).to(device), torch.from_numpy(top_p_D).to(device))
    seeds_D = torch.from_numpy(rows.seeds_R[draws_D]).to(device)
    positions_D = torch.from_numpy(rows.positions_R[draws_D]).to(device)
    return gumbel_argmax(logits_DV, seeds_D, positions_D)
