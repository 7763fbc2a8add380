"""Top-p: only the fewest best tokens whose probabilities sum to at least p can be chosen. R = rows, V = vocabulary."""

from __future__ import annotations

import torch

from forebay_kernels.ops.truncation import mass_window


def raise_to_top_p(floors_R: torch.Tensor, logits_RV: torch.Tensor, top_p_R: torch.Tensor) -> torch.Tensor:
    """Return the least logit that each row keeps of those at or above its floor; `top_p_R` (float32) 1 leaves it.

    A token is kept while those before it hold less than p of what the floor has left: transformers'
    TopPLogitsWarper, except that logits equal to the last one kept are kept too, where its answer depends on the
    order of its sort.
    """
    best_R = torch.full_like(floors_R, torch.inf)
    return mass_window(logits_RV, floors_R, best_R, top_p_R)[0]
