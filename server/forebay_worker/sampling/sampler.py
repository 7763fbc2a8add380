"""The pipeline from logits to ids, whole batches at a time. R = rows, V = vocabulary.

Order: watermark; logit bias; repetition, frequency, presence and TGI's frequency penalty; allowed tokens, grammar, bad
words and minimum length; temperature; top-k, top-p, min-p, typical-p; noise. It is transformers' and, where that has
no such option, TGI's. Greedy rows stop after the masks. A row's id depends on its own logits and options alone,
whatever rows stand beside it.
"""

from __future__ import annotations

import numpy as np
import torch

from forebay_kernels.ops.sampling_noise import argmax, gumbel_argmax
from forebay_worker.sampling.allowed_token_ids import keep_allowed_tokens
from forebay_worker.sampling.bad_words import forbid_bad_words
from forebay_worker.sampling.frequency_penalty import apply_frequency_penalty
from forebay_worker.sampling.grammar_mask import forbid_by_grammar
from forebay_worker.sampling.logit_bias import add_logit_bias
from forebay_worker.sampling.min_new_tokens import forbid_end_tokens
from forebay_worker.sampling.presence_penalty import apply_presence_penalty
from forebay_worker.sampling.repetition_penalty import apply_repetition_penalty
from forebay_worker.sampling.rows import I64, SamplingRows
from forebay_worker.sampling.temperature import apply_temperature
from forebay_worker.sampling.tgi_frequency_penalty import apply_tgi_frequency_penalty
from forebay_worker.sampling.truncation import truncate
from forebay_worker.sampling.watermark import mark_green_tokens

# What the kernels say of such a row.
NUMERICAL_FAILURE = -1
NOTHING_LEFT = -2

_BEFORE_CHOICE = (
    mark_green_tokens,
    add_logit_bias,
    apply_repetition_penalty,
    apply_frequency_penalty,
    apply_presence_penalty,
    apply_tgi_frequency_penalty,
    keep_allowed_tokens,
    forbid_by_grammar,
    forbid_bad_words,
    forbid_end_tokens,
)


def sample(logits_RV: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """Choose an id a row.

    Modifies `logits_RV` (float32, contiguous): on return it holds what the choice was made from, that is, logits
    after penalties, masks, temperature and truncation.
    Returns: int64 [R]; `NUMERICAL_FAILURE` where a row's logits are NaN or infinite, `NOTHING_LEFT` where its own
    masks forbid every token.
    """
    ids_R = argmax(logits_RV)
    if rows.is_plain_greedy:
        return ids_R
    sound_R = ids_R >= 0
    if not bool(sound_R.all()):
        logits_RV[~sound_R] = 0.0
    return torch.where(sound_R, _choose(logits_RV, rows), NUMERICAL_FAILURE)


def _choose(logits_RV: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    for apply in _BEFORE_CHOICE:
        apply(logits_RV, rows)
    draws_D = np.flatnonzero(rows.temperature_R)
    if draws_D.size == rows.temperature_R.size and not rows.has_masks:
        return _draw(logits_RV, rows, draws_D)
    ids_R = argmax(logits_RV)
    left_R = ids_R >= 0
    if not bool(left_R.all()):
        # No number may come of such a row, and its log-probabilities are nobody's.
        logits_RV[~left_R] = 0.0
    if draws_D.size:
        index_D = torch.from_numpy(draws_D).to(logits_RV.device)
        logits_DV = logits_RV[index_D]
        ids_R[index_D] = _draw(logits_DV, rows, draws_D)
        logits_RV[index_D] = logits_DV
    return torch.where(left_R, ids_R, NOTHING_LEFT)


def _draw(logits_DV: torch.Tensor, rows: SamplingRows, draws_D: I64) -> torch.Tensor:
    """Draw for the rows `draws_D`, whose logits alone are in `logits_DV`. Modifies `logits_DV`."""
    device = logits_DV.device
    apply_temperature(logits_DV, rows.temperature_R[draws_D])
    truncate(logits_DV, rows, draws_D)
    seeds_D = torch.from_numpy(rows.seeds_R[draws_D]).to(device)
    positions_D = torch.from_numpy(rows.positions_R[draws_D]).to(device)
    return gumbel_argmax(logits_DV, seeds_D, positions_D)
