"""What an attention backend is given and must do.

T = tokens of the step, S = sequences (rows), B = most blocks of a row, H = query heads, K = key-value heads,
D = head_dim.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

from torch import Tensor

from forebay_worker.attention.rotation import Rotation
from forebay_worker.attention.row_groups import I64, RowGroup, group_rows
from forebay_worker.kv_cache import LayerKvCache


@dataclasses.dataclass(frozen=True)
class AttentionMetadata:
    """Where a step's rows lie in the packed tokens and in the cache."""

    block_tables_SB: Tensor
    """int32; padded with 0, the null block, which is never read."""
    context_lens_S: Tensor
    """int32; tokens of each row's sequence, this step's included."""
    cu_seqlens_q_S1: Tensor
    """int32 [S + 1]; row s holds tokens cu[s] to cu[s + 1], the last of its context."""
    slot_mapping_T: Tensor
    """int64; block * block_size + offset of each token's cache entry."""
    block_size: int
    host_query_lens_S: I64
    """Tokens of each row; on the host, so that no backend waits for the device to read them."""
    host_context_lens_S: I64

    @functools.cached_property
    def row_groups(self) -> tuple[RowGroup, ...]:
        """The rows in batches of like length, for all layers."""
        lens = self.host_query_lens_S, self.host_context_lens_S
        return group_rows(*lens, self.block_tables_SB, self.block_size)

    @functools.cached_property
    def cache_places_T(self) -> tuple[Tensor, Tensor]:
        """(block, offset in it) of each token's cache entry, for all layers."""
        return self.slot_mapping_T // self.block_size, self.slot_mapping_T % self.block_size


@dataclasses.dataclass(frozen=True)
class AttentionStep:
    """What layers' attention shares in one step."""

    rotation: Rotation | None
    """None for a model whose positions are learned embeddings."""
    metadata: AttentionMetadata


@dataclasses.dataclass(frozen=True)
class AttentionParameters:
    """What is fixed for one layer."""

    scale: float
    """Multiplied with the scores, usually `D ** -0.5`."""
    window: int = 0
    """A query at position p sees the keys of p - window + 1 to p; 0: all up to its own."""
    softcap: float = 0.0
    """Scaled scores s become softcap * tanh(s / softcap); 0: they stay. Source: Gemma 2, arXiv 2408.00118."""


class AttentionBackend(Protocol):
    """Causal attention of packed rows, prompt chunks and decodes mixed."""

    name: str

    def forward(
        self,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        kv: LayerKvCache,
        step: AttentionStep,
        parameters: AttentionParameters,
    ) -> Tensor:
        """Rotate q and k, write k and v into the cache, then attend: [T, H, D] in q's dtype.

        Tokens may be strided (parts of a merged projection); q and k may be overwritten.
        """
