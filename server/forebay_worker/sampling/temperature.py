"""Temperature: divides logits, so that above 1 the choice is flatter and below 1 sharper."""

from __future__ import annotations

import numpy as np
import torch

from forebay_worker.sampling.rows import F32

# Below the first a quotient may overflow. Above the second all float32 probabilities are equal.
_SHARP = 1e-6
_FLAT = 1e9


def apply_temperature(logits_RV: torch.Tensor, temperature_R: F32) -> None:
    """Divide each row by its temperature, all above 0. Modifies `logits_RV`.

    Rows of the sharpest temperatures are shifted before, so that their best logit is 0: no probability changes.
    """
    if not (temperature_R != 1.0).any():
        return
    sharp_P = np.flatnonzero(temperature_R < _SHARP)
    if sharp_P.size:
        rows_P = torch.from_numpy(sharp_P).to(logits_RV.device)
        logits_RV[rows_P] -= logits_RV[rows_P].amax(dim=-1, keepdim=True)
    divisors_R = temperature_R.clip(np.finfo(np.float32).tiny, _FLAT)
    logits_RV.div_(torch.from_numpy(divisors_R).to(logits_RV.device)[:, None])
