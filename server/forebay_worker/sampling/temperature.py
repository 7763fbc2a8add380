"""Temperature: divides logits, so that above 1 the choice is flatter and below 1 sharper."""

from __future__ import annotations

import torch

from forebay_worker.sampling.rows import F32


def apply_temperature(logits_RV: torch.Tensor, temperature_R: F32) -> None:
    """Divide each row by its temperature, all above 0. Modifies `logits_RV`."""
    if (temperature_R != 1.0).any():
        logits_RV.div_(torch.from_numpy(temperature_R).to(logits_RV.device)[:, None])
