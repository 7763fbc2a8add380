"""The CPU kernel's backend: reads blocks where they lie, all rows in one call."""

from __future__ import annotations

from forebay_kernels.ops.kv_cache import write_kv_cache
from forebay_kernels.ops.paged_attention import paged_attention
from torch import Tensor

from forebay_worker.attention.backend import AttentionMetadata
from forebay_worker.kv_cache import LayerKvCache


class CpuPaged:
    """See AttentionBackend."""

    name = "paged"

    def forward(
        self,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        kv: LayerKvCache,
        metadata: AttentionMetadata,
        scale: float,
    ) -> Tensor:
        """See AttentionBackend."""
        write_kv_cache(k_TKD, v_TKD, kv.key, kv.value, metadata.slot_mapping_T)
        return paged_attention(
            q_THD,
            kv.key,
            kv.value,
            metadata.block_tables_SB,
            metadata.context_lens_S,
            metadata.cu_seqlens_q_S1,
            scale,
        )
