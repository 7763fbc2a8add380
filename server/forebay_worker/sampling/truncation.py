"""What top-k, top-p, min-p and typical-p leave of each row: an interval of its logits. R = rows, V = vocabulary.

Each option sees what those before it have left, which is a floor to the logits; so no row is copied or sorted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from forebay_kernels.ops.truncation import keep_window
from forebay_worker.sampling.min_p import raise_to_min_p
from forebay_worker.sampling.rows import I64, SamplingRows
from forebay_worker.sampling.top_k import raise_to_top_k
from forebay_worker.sampling.top_p import raise_to_top_p
from forebay_worker.sampling.typical_p import typical_window


def truncate(logits_DV: torch.Tensor, rows: SamplingRows, draws_D: I64) -> None:
    """Set to -inf what the rows `draws_D`, whose logits alone are in `logits_DV`, leave out. Modifies `logits_DV`."""
    floors_D = torch.full((draws_D.size,), -torch.inf, device=logits_DV.device)
    highs_D = torch.full_like(floors_D, torch.inf)
    top_k_D, top_p_D = rows.top_k_R[draws_D], rows.top_p_R[draws_D]
    min_p_D, typical_p_D = rows.min_p_R[draws_D], rows.typical_p_R[draws_D]
    if top_k_D.any():
        floors_D = raise_to_top_k(floors_D, logits_DV, _on(logits_DV, top_k_D))
    if (top_p_D < 1.0).any():
        floors_D = raise_to_top_p(floors_D, logits_DV, _on(logits_DV, top_p_D))
    if min_p_D.any():
        floors_D = raise_to_min_p(floors_D, logits_DV, _on(logits_DV, min_p_D))
    if (typical_p_D < 1.0).any():
        floors_D, highs_D = typical_window(floors_D, logits_DV, _on(logits_DV, typical_p_D))
    keep_window(logits_DV, floors_D, highs_D)


def _on(logits_DV: torch.Tensor, column_D: npt.NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(column_D).to(logits_DV.device)
