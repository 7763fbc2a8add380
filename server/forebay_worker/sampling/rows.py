"""The sampling columns of a step, one entry a row of logits. R = rows, S = slots, L = longest known sequence."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class SamplingRows:
    """What each row asks for; neutral values as in worker.proto. The mappings hold only rows that have the option."""

    temperature_R: F32
    top_k_R: I64
    top_p_R: F32
    typical_p_R: F32
    min_p_R: F32
    repetition_penalty_R: F32
    frequency_penalty_R: F32
    presence_penalty_R: F32
    tgi_frequency_penalty_R: F32
    seeds_R: I64
    """Bit patterns of the unsigned seeds."""
    positions_R: I64
    """Tokens before the one sampled: with seed and token id, all that the noise depends on."""
    num_prompt_R: I64
    """Of these, the ones that are prompt."""
    slots_R: I64
    token_ids_SL: npt.NDArray[np.int32]
    """Known ids of every slot, `positions_R` of them valid; a view, not to be modified."""
    end_token_ids: Mapping[int, I64]
    """Of rows that are still shorter than their minimum."""
    logit_bias: Mapping[int, tuple[I64, F32]]
    """Ids, and what is added to their logits."""
    allowed_token_ids: Mapping[int, I64]
    bad_words: Mapping[int, tuple[tuple[int, ...], ...]]
    watermark: Mapping[int, tuple[float, float]]
    """Gamma and delta."""
    grammar_masks: Mapping[int, Bool] = dataclasses.field(default_factory=dict)
    """Which tokens of the vocabulary a row's grammar forbids."""

    @property
    def has_masks(self) -> bool:
        """Whether a row has tokens that it cannot choose whatever their logits."""
        return bool(self.end_token_ids or self.allowed_token_ids or self.bad_words or self.grammar_masks)

    @property
    def has_penalties(self) -> bool:
        """Whether a row's logits are changed before the choice."""
        return bool(
            self.logit_bias
            or self.watermark
            or (self.repetition_penalty_R != 1.0).any()
            or self.frequency_penalty_R.any()
            or self.presence_penalty_R.any()
            or self.tgi_frequency_penalty_R.any()
        )

    @functools.cached_property
    def is_plain_greedy(self) -> bool:
        """Whether the best of the model's own logits is the answer for every row."""
        return not (self.temperature_R.any() or self.has_masks or self.has_penalties)


def row_ids(ids_of_rows: Mapping[int, I64]) -> tuple[I64, I64]:
    """Return the (row, id) pairs of rows that hold lists of ids, as two arrays: what indexes logits at once."""
    rows = np.repeat(np.fromiter(ids_of_rows, np.int64), [ids.size for ids in ids_of_rows.values()])
    return rows, np.concatenate(list(ids_of_rows.values()))
