"""Min-p: only tokens at least p times as probable as the best one can be chosen. R = rows, V = vocabulary."""

from __future__ import annotations

import torch


def raise_to_min_p(floors_R: torch.Tensor, logits_RV: torch.Tensor, min_p_R: torch.Tensor) -> torch.Tensor:
    """Return the least logit that each row keeps; `min_p_R` (float32) 0 leaves its floor.

    A ratio of probabilities is a difference of logits, so that no sum is needed. Source: arXiv 2407.01082 and
    transformers' MinPLogitsWarper.
    """
    return torch.maximum(floors_R, logits_RV.amax(dim=-1) + min_p_R.log())
