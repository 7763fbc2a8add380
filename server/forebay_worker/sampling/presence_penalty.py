"""Presence penalty: a token that was generated, once or often, becomes less likely. R = rows, V = vocabulary."""

from __future__ import annotations

import numpy as np
import torch

from forebay_worker.sampling.rows import SamplingRows
from forebay_worker.sampling.token_counts import count_tokens, subtract_at


def apply_presence_penalty(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Subtract the penalty from the logits of generated tokens. Modifies `logits_RV`.

    Source: OpenAI's `presence_penalty`; prompt tokens do not count.
    """
    penalised_P = np.flatnonzero(rows.presence_penalty_R)
    if penalised_P.size:
        counts = count_tokens(rows, penalised_P, rows.num_prompt_R[penalised_P], logits_RV.shape[1])
        subtract_at(logits_RV, counts, rows.presence_penalty_R[counts.rows_N])
