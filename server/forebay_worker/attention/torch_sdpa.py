"""The reference backend: gathers each row's blocks and calls torch. Any device, any dtype; slow for many rows.

T = tokens, S = rows, H = query heads, K = key-value heads, D = head_dim, C = context length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from forebay_worker.attention.backend import AttentionStep
from forebay_worker.kv_cache import LayerKvCache


class TorchSdpa:
    """See AttentionBackend."""

    name = "sdpa"

    def forward(
        self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, kv: LayerKvCache, step: AttentionStep, scale: float
    ) -> Tensor:
        """See AttentionBackend."""
        metadata = step.metadata
        q_THD, k_TKD = step.rotation(q_THD), step.rotation(k_TKD)
        write(kv.key, k_TKD, metadata.slot_mapping_T)
        write(kv.value, v_TKD, metadata.slot_mapping_T)
        out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
        starts = metadata.cu_seqlens_q_S1.tolist()
        for row, context_len in enumerate(metadata.context_lens_S.tolist()):
            tokens = slice(starts[row], starts[row + 1])
            key_KCD = gather(kv.key, metadata.block_tables_SB[row], context_len).to(q_THD.dtype)
            value_KCD = gather(kv.value, metadata.block_tables_SB[row], context_len).to(q_THD.dtype)
            query_HQD = q_THD[tokens].transpose(0, 1)
            out_THD[tokens] = attend(query_HQD, key_KCD, value_KCD, scale).transpose(0, 1)
        return out_THD


def write(cache: Tensor, new_TKD: Tensor, slot_mapping_T: Tensor) -> None:
    """Put tokens' keys or values into `cache` [num_blocks, K, block_size, D], in the cache's dtype."""
    block_size = cache.shape[2]
    cache[slot_mapping_T // block_size, :, slot_mapping_T % block_size] = new_TKD.to(cache.dtype)


def gather(cache: Tensor, block_table_B: Tensor, context_len: int) -> Tensor:
    """A sequence's keys or values in order: [K, C, D]."""
    num_blocks = -(-context_len // cache.shape[2])
    blocks = cache[block_table_B[:num_blocks].long()]
    return blocks.transpose(0, 1).flatten(1, 2)[:, :context_len]


def attend(query_HQD: Tensor, key_KCD: Tensor, value_KCD: Tensor, scale: float) -> Tensor:
    """Causal attention of the last Q tokens of a context: [H, Q, D]."""
    num_queries, context_len = query_HQD.shape[1], key_KCD.shape[1]
    mask = None
    if 1 < num_queries < context_len:
        mask = torch.ones(num_queries, context_len, dtype=torch.bool, device=query_HQD.device)
        mask = mask.tril(context_len - num_queries)
    return F.scaled_dot_product_attention(
        query_HQD[None],
        key_KCD[None],
        value_KCD[None],
        attn_mask=mask,
        is_causal=num_queries == context_len and num_queries > 1,
        scale=scale,
        enable_gqa=query_HQD.shape[0] != key_KCD.shape[0],
    )[0]
