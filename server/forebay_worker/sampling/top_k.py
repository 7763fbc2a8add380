"""Top-k: only the k best tokens, and those equal to the last of them, can be chosen. R = rows, V = vocabulary."""

from __future__ import annotations

import torch

from forebay_kernels.ops.truncation import kth_largest


def raise_to_top_k(floors_R: torch.Tensor, logits_RV: torch.Tensor, top_k_R: torch.Tensor) -> torch.Tensor:
    """Return the least logit that each row keeps; `top_k_R` (int64) 0 leaves its floor.

    Source: transformers' TopKLogitsWarper.
    """
    return torch.maximum(floors_R, kth_largest(logits_RV, top_k_R))
