"""Top-p: only the fewest best tokens whose probabilities sum to at least p can be chosen.

R = rows, M = candidates (a row's best logits, best first).
"""

from __future__ import annotations

import torch


def top_p_threshold(
    values_RM: torch.Tensor, total_R: torch.Tensor, top_p_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least logit that each row keeps [R], and whether the candidates reach the mass p [R, bool].

    `total_R` is the logarithm of the mass (sum of exponentials) of which p is a share. A candidate is kept while
    those before it hold less than p: transformers' TopPLogitsWarper, except that logits equal to the last one kept
    are kept too, where its answer depends on the order of its sort. `top_p_R` 1 keeps all: the threshold is -inf.
    """
    on_R = top_p_R < 1.0
    mass_RM = (values_RM - total_R[:, None]).exp_().cumsum_(dim=-1)
    last_R = (mass_RM < top_p_R[:, None]).sum(dim=-1)
    reached_R = last_R < values_RM.shape[1]
    last_R = last_R.clamp(max=values_RM.shape[1] - 1)
    threshold_R = values_RM.gather(1, last_R[:, None]).squeeze(1).masked_fill(~on_R, -torch.inf)
    return threshold_R, ~on_R | reached_R
