"""The reference backend: gathers each row's blocks and calls torch. Any device, any dtype; slow for many rows.

T = tokens, S = rows, H = query heads, K = key-value heads, D = head_dim, Q = queries of a row, C = context length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from forebay_worker.attention.backend import AttentionParameters, AttentionStep
from forebay_worker.kv_cache import LayerKvCache


class TorchSdpa:
    """See AttentionBackend."""

    name = "sdpa"

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
        metadata = step.metadata
        if step.rotation is not None:
            q_THD, k_TKD = step.rotation(q_THD), step.rotation(k_TKD)
        write(kv.key, k_TKD, metadata.slot_mapping_T)
        write(kv.value, v_TKD, metadata.slot_mapping_T)
        out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
        stop = 0
        lens = zip(metadata.host_query_lens_S.tolist(), metadata.host_context_lens_S.tolist(), strict=True)
        for row, (query_len, context_len) in enumerate(lens):
            tokens = slice(stop, stop := stop + query_len)
            key_KCD = gather(kv.key, metadata.block_tables_SB[row], context_len).to(q_THD.dtype)
            value_KCD = gather(kv.value, metadata.block_tables_SB[row], context_len).to(q_THD.dtype)
            query_HQD = q_THD[tokens].transpose(0, 1)
            out_THD[tokens] = attend(query_HQD, key_KCD, value_KCD, parameters).transpose(0, 1)
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


def attend(query_HQD: Tensor, key_KCD: Tensor, value_KCD: Tensor, parameters: AttentionParameters) -> Tensor:
    """Causal attention of the last Q tokens of a context: [H, Q, D]."""
    num_queries, context_len = query_HQD.shape[1], key_KCD.shape[1]
    if parameters.softcap:
        return _attend_softcapped(query_HQD, key_KCD, value_KCD, parameters)
    is_whole = num_queries == context_len and not 0 < parameters.window < context_len
    return F.scaled_dot_product_attention(
        query_HQD[None],
        key_KCD[None],
        value_KCD[None],
        attn_mask=None if is_whole else _visible(query_HQD, context_len, parameters.window),
        is_causal=is_whole and num_queries > 1,
        scale=parameters.scale,
        enable_gqa=query_HQD.shape[0] != key_KCD.shape[0],
    )[0]


def _visible(query_HQD: Tensor, context_len: int, window: int) -> Tensor | None:
    """Which keys each query sees: bool [Q, C]; None if it sees all."""
    num_queries = query_HQD.shape[1]
    before = context_len - num_queries
    is_windowed = 0 < window < context_len
    if num_queries == 1 and not is_windowed:
        return None
    causal_QC = torch.ones(num_queries, context_len, dtype=torch.bool, device=query_HQD.device).tril(before)
    return causal_QC.triu(before - window + 1) if is_windowed else causal_QC


def _attend_softcapped(
    query_HQD: Tensor, key_KCD: Tensor, value_KCD: Tensor, parameters: AttentionParameters
) -> Tensor:
    """The same with scores bounded before they are masked, which torch's operator cannot do; float32 inside."""
    group_size = query_HQD.shape[0] // key_KCD.shape[0]
    key_HCD = key_KCD.float().repeat_interleave(group_size, dim=0)
    value_HCD = value_KCD.float().repeat_interleave(group_size, dim=0)
    scores_HQC = query_HQD.float() @ key_HCD.transpose(1, 2) * (parameters.scale / parameters.softcap)
    scores_HQC = scores_HQC.tanh_().mul_(parameters.softcap)
    mask_QC = _visible(query_HQD, key_KCD.shape[1], parameters.window)
    if mask_QC is not None:
        scores_HQC.masked_fill_(~mask_QC, -torch.inf)
    return (scores_HQC.softmax(dim=-1) @ value_HCD).to(query_HQD.dtype)
