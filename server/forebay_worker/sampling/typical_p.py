"""Typical-p: only tokens whose surprise is nearest to the expected one can be chosen, until they hold the mass p.

R = rows, V = vocabulary.
"""

from __future__ import annotations

import torch

from forebay_kernels.ops.truncation import mass_window, mean_logit


def typical_window(
    floors_R: torch.Tensor, logits_RV: torch.Tensor, typical_p_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the greatest logit that each row keeps; `typical_p_R` (float32) 1 leaves its floor.

    The surprise of a token differs from the entropy by as much as its logit from the row's mean logit.
    Source: arXiv 2202.00666 and transformers' TypicalLogitsWarper.
    """
    return mass_window(logits_RV, floors_R, mean_logit(logits_RV, floors_R), typical_p_R)
