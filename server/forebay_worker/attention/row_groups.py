"""Rows of like length side by side, so that attention by torch's operators runs on few, well-filled batches.

Worked out once a step, on the host, for all layers. S = rows of the step, G = rows of a group, Q = most queries of
one, C = its longest context in whole blocks, B = C / block size, N = queries of the group without padding.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forebay_worker.device import upload

I64 = npt.NDArray[np.int64]

MAX_GATHERED_TOKENS = 1 << 17
"""Context of one group, padding included: bounds what a layer's gathered keys take, however large the cache is."""

_SHORT_CONTEXT_BITS = 8
"""Contexts of up to 256 tokens are of like length: padding them costs less than a batch of their own."""


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """Rows whose numbers of queries, and lengths of context, differ by less than a factor of two."""

    block_tables_GB: Tensor
    """int64."""
    tokens_GQ: Tensor
    """int64; the token of each query in the step; where a row has fewer, its last one again."""
    positions_GQ: Tensor
    """int64; the position of each query in its sequence; likewise."""
    context_lens_G1: Tensor
    first_positions_G1: Tensor
    """int64; of each row's first query."""
    valid_N: Tensor | None
    """int64; the queries that are no padding, as indices into [G * Q]; None: all."""
    is_whole: bool
    """The group holds all tokens of the step, in order and without padding."""
    starts_at_zero: bool
    """No row has context before this step."""
    max_context_len: int
    masks: dict[int, tuple[Tensor, Tensor]] = dataclasses.field(default_factory=dict)

    def visible_and_unseen(self, window: int, num_positions: int) -> tuple[Tensor, Tensor]:
        """(bool [G, 1, Q, C]: what each query sees, bool [G, C]: what no query of the row sees), kept for all layers.

        What is unseen may hold anything, NaN too, and was perhaps never written.
        """
        if window not in self.masks:
            places_C = torch.arange(num_positions, device=self.tokens_GQ.device)
            newest_GQ1 = self.positions_GQ[:, :, None]
            visible_GQC = places_C <= newest_GQ1
            unseen_GC = places_C >= self.context_lens_G1
            if window:
                visible_GQC &= places_C > newest_GQ1 - window
                unseen_GC |= places_C <= self.first_positions_G1 - window
            self.masks[window] = visible_GQC[:, None], unseen_GC
        return self.masks[window]


def group_rows(
    query_lens_S: I64, context_lens_S: I64, block_tables_SB: Tensor, block_size: int
) -> tuple[RowGroup, ...]:
    """Every row of the step in one group; lengths are on the host, the tables on the device."""
    starts_S = np.cumsum(query_lens_S) - query_lens_S
    is_start_S = (query_lens_S == context_lens_S) & (query_lens_S > 1)
    keys_S = np.stack(
        [is_start_S, _num_bits(query_lens_S - 1), np.maximum(_num_bits(context_lens_S - 1), _SHORT_CONTEXT_BITS)]
    )
    groups = []
    for key in np.unique(keys_S, axis=1).T:
        rows = np.flatnonzero((keys_S == key[:, None]).all(axis=0))
        longest = -(-int(context_lens_S[rows].max()) // block_size) * block_size
        most_rows = max(1, MAX_GATHERED_TOKENS // longest)
        for first in range(0, rows.size, most_rows):
            rows_G = rows[first : first + most_rows]
            groups.append(_group(rows_G, starts_S, query_lens_S, context_lens_S, block_tables_SB, block_size))
    return tuple(groups)


def _num_bits(numbers: I64) -> I64:
    return np.frexp(numbers)[1].astype(np.int64)


def _group(
    rows_G: I64, starts_S: I64, query_lens_S: I64, context_lens_S: I64, block_tables_SB: Tensor, block_size: int
) -> RowGroup:
    device = block_tables_SB.device
    query_lens_G, context_lens_G = query_lens_S[rows_G], context_lens_S[rows_G]
    first_positions_G = context_lens_G - query_lens_G
    offsets_GQ = np.minimum(np.arange(query_lens_G.max()), query_lens_G[:, None] - 1)
    is_padded = bool((query_lens_G != offsets_GQ.shape[1]).any())
    is_valid_GQ = np.arange(offsets_GQ.shape[1]) < query_lens_G[:, None]
    num_blocks = -(-int(context_lens_G.max()) // block_size)
    has_all_rows = rows_G.size == query_lens_S.size
    tables = block_tables_SB[:, :num_blocks]
    return RowGroup(
        block_tables_GB=(tables if has_all_rows else tables[upload(rows_G, device)]).long(),
        tokens_GQ=upload(starts_S[rows_G, None] + offsets_GQ, device),
        positions_GQ=upload(first_positions_G[:, None] + offsets_GQ, device),
        context_lens_G1=upload(context_lens_G[:, None], device),
        first_positions_G1=upload(first_positions_G[:, None], device),
        valid_N=upload(np.flatnonzero(is_valid_GQ), device) if is_padded else None,
        is_whole=has_all_rows and not is_padded,
        starts_at_zero=not first_positions_G.any(),
        max_context_len=int(context_lens_G.max()),
    )
