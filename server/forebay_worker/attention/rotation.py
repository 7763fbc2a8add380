"""The turn that a step gives its queries and keys.

T = tokens, H = heads, D = head_dim, P = positions, R = rotated width (<= D).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


class Rotation:
    """A step's positions with the table of angles, shared by all layers; backends turn queries and keys with it."""

    def __init__(self, table_PR: Tensor, positions_T: Tensor, dtype: torch.dtype) -> None:
        """`table_PR`: float32, a row's first half cosines, its second half sines; `dtype`: of queries and keys."""
        self.table_PR = table_PR
        self.positions_T = positions_T
        self._dtype = dtype

    @functools.cached_property
    def _cos_and_signed_sin_T1R(self) -> tuple[Tensor, Tensor]:
        cos, sin = self.table_PR[self.positions_T].to(self._dtype).unsqueeze(1).chunk(2, dim=-1)
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def __call__(self, x_THD: Tensor) -> Tensor:
        """A new tensor, the heads' first R elements rotated. Products and their order are those of transformers."""
        cos_T1R, sin_T1R = self._cos_and_signed_sin_T1R
        width = cos_T1R.shape[-1]
        turning_THR, staying = x_THD[..., :width], x_THD[..., width:]
        first, second = turning_THR.chunk(2, dim=-1)
        swapped = torch.cat((second, first), dim=-1)
        turned_THR = (turning_THR * cos_T1R).add_(swapped.mul_(sin_T1R))
        return turned_THR if width == x_THD.shape[-1] else torch.cat((turned_THR, staying), dim=-1)
