"""Frequency penalty: a token becomes less likely each time that it is generated. R = rows, V = vocabulary."""

from __future__ import annotations

import numpy as np
import torch

from forebay_worker.sampling.rows import SamplingRows
from forebay_worker.sampling.token_counts import count_tokens, subtract_at


def apply_frequency_penalty(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Subtract penalty x count from the logits of generated tokens. Modifies `logits_RV`.

    Source: OpenAI's `frequency_penalty`; prompt tokens do not count.
    """
    penalised_P = np.flatnonzero(rows.frequency_penalty_R)
    if penalised_P.size:
        counts = count_tokens(rows, penalised_P, rows.num_prompt_R[penalised_P], logits_RV.shape[1])
        subtract_at(logits_RV, counts, rows.frequency_penalty_R[counts.rows_N] * counts.counts_N.astype(np.float32))
