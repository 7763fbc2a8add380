"""Text Generation Inference's frequency penalty: by a token's share of the text, prompt and generated.

R = rows, V = vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch

from forebay_worker.sampling.rows import SamplingRows
from forebay_worker.sampling.token_counts import count_tokens, subtract_at


def apply_tgi_frequency_penalty(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Subtract penalty x count / length from the logits of known tokens. Modifies `logits_RV`.

    Source: TGI's HeterogeneousFrequencyPenaltyLogitsProcessor, for a batch of one: in a larger one it divides by
    the longest row's length and counts its padding.
    """
    penalised_P = np.flatnonzero(rows.tgi_frequency_penalty_R)
    if penalised_P.size:
        counts = count_tokens(rows, penalised_P, np.zeros_like(penalised_P), logits_RV.shape[1])
        shares_N = (counts.counts_N / rows.positions_R[counts.rows_N]).astype(np.float32)
        subtract_at(logits_RV, counts, shares_N * rows.tgi_frequency_penalty_R[counts.rows_N])
