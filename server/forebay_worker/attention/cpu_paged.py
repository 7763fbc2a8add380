"""The CPU kernel's backend: one pass rotates and writes, one reads blocks where they lie."""

from __future__ import annotations

from torch import Tensor

from forebay_kernels.ops.kv_cache import write_kv_cache
from forebay_kernels.ops.paged_attention import paged_attention
from forebay_kernels.ops.rotary import rotary_write_kv
from forebay_worker.attention.backend import AttentionParameters, AttentionStep
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
        step: AttentionStep,
        parameters: AttentionParameters,
    ) -> Tensor:
        """See AttentionBackend."""
        rotation, metadata = step.rotation, step.metadata
        if rotation is None:
            write_kv_cache(k_TKD, v_TKD, kv.key, kv.value, metadata.slot_mapping_T)
        else:
            rotary_write_kv(
                q_THD,
                k_TKD,
                v_TKD,
                rotation.table_PR,
                rotation.positions_T,
                kv.key,
                kv.value,
                metadata.slot_mapping_T,
            )
        return paged_attention(
            q_THD,
            kv.key,
            kv.value,
            metadata.block_tables_SB,
            metadata.context_lens_S,
            metadata.cu_seqlens_q_S1,
            parameters.scale,
            window=parameters.window,
            softcap=parameters.softcap,
        )
