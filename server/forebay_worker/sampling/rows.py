"""The sampling columns of a step, one entry a row of logits. R = rows, S = slots, L = longest known sequence."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class SamplingRows:
    """What each row asks for; neutral values as in worker.proto."""

    temperature_R: F32
    top_k_R: I64
    top_p_R: F32
    repetition_penalty_R: F32
    seeds_R: I64
    """Bit patterns of the unsigned seeds."""
    positions_R: I64
    """Tokens before the one sampled: with seed and token id, all that the noise depends on."""
    slots_R: I64
    token_ids_SL: npt.NDArray[np.int32]
    """Known ids of every slot, `positions_R` of them valid; a view, not to be modified."""
    forbidden_ids: dict[int, tuple[int, ...]]
    """Row -> ids that it cannot choose yet."""

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the best of the model's own logits is the answer for every row."""
        return not (self.temperature_R.any() or self.forbidden_ids or (self.repetition_penalty_R != 1.0).any())
