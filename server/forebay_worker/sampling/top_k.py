"""Top-k: only the k best tokens, and those equal to the last of them, can be chosen.

R = rows, M = candidates (a row's best logits, best first), V = vocabulary.
"""

from __future__ import annotations

import torch


def top_k_threshold(values_RM: torch.Tensor, top_k_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least logit that each row keeps [R], and whether every logit kept is a candidate [R, bool].

    `top_k_R` 0 keeps all: the threshold is -inf. Source: transformers' TopKLogitsWarper.
    """
    on_R = top_k_R > 0
    last_R = (top_k_R - 1).clamp(min=0, max=values_RM.shape[1] - 1)
    threshold_R = values_RM.gather(1, last_R[:, None]).squeeze(1).masked_fill(~on_R, -torch.inf)
    return threshold_R, on_R & (values_RM[:, -1] < threshold_R)
