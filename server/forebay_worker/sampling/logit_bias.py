"""Logit bias: a number for some tokens, added to the model's logits before everything else.

R = rows, V = vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch

from forebay_worker.sampling.rows import SamplingRows, row_ids


def add_logit_bias(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Add each row's biases; an id that is listed twice gets both. Modifies `logits_RV`.

    Source: OpenAI's `logit_bias`; before the penalties, as transformers' SequenceBiasLogitsProcessor.
    """
    if not rows.logit_bias:
        return
    at = row_ids({row: ids for row, (ids, _) in rows.logit_bias.items()})
    values = np.concatenate([values for _, values in rows.logit_bias.values()])
    indices = tuple(torch.from_numpy(index).to(logits_RV.device) for index in at)
    logits_RV.index_put_(indices, torch.from_numpy(values).to(logits_RV.device), accumulate=True)
