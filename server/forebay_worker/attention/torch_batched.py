"""Attention by torch's operators on batches of like rows: what runs on a GPU, and anywhere without the kernel.

T = tokens, H = query heads, K = key-value heads, R = H / K, D = head_dim, G = rows of a group, Q = queries of a row,
C = context length in whole blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from forebay_worker.attention.backend import AttentionMetadata, AttentionParameters, AttentionStep
from forebay_worker.attention.row_groups import RowGroup
from forebay_worker.kv_cache import LayerKvCache


class TorchBatched:
    """See AttentionBackend. Never waits for the device."""

    name = "batched"

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
        _write(kv, k_TKD, v_TKD, metadata)
        groups = metadata.row_groups
        if len(groups) == 1 and groups[0].is_whole:
            q_GQHD = q_THD.view(*groups[0].tokens_GQ.shape, *q_THD.shape[1:])
            return _attend(q_GQHD, kv, groups[0], parameters).flatten(0, 1)
        out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
        for group in groups:
            found_NHD = _attend(q_THD[group.tokens_GQ], kv, group, parameters).flatten(0, 1)
            tokens_N = group.tokens_GQ.flatten()
            if group.valid_N is not None:
                found_NHD, tokens_N = found_NHD[group.valid_N], tokens_N[group.valid_N]
            out_THD[tokens_N] = found_NHD
        return out_THD


def _write(kv: LayerKvCache, k_TKD: Tensor, v_TKD: Tensor, metadata: AttentionMetadata) -> None:
    blocks_T, offsets_T = metadata.cache_places_T
    kv.key[blocks_T, :, offsets_T] = k_TKD.to(kv.key.dtype)
    kv.value[blocks_T, :, offsets_T] = v_TKD.to(kv.value.dtype)


def _attend(q_GQHD: Tensor, kv: LayerKvCache, group: RowGroup, parameters: AttentionParameters) -> Tensor:
    """[G, Q, H, D]; what padding yields is nobody's."""
    num_positions = group.block_tables_GB.shape[1] * kv.key.shape[2]
    window = parameters.window if parameters.window < group.max_context_len else 0
    visible_G1QC, unseen_GC = group.visible_and_unseen(window, num_positions)
    key_GKCD = _gather(kv.key, group, unseen_GC).to(q_GQHD.dtype)
    value_GKCD = _gather(kv.value, group, unseen_GC).to(q_GQHD.dtype)
    if group.starts_at_zero and not window and not parameters.softcap:
        # No mask to make or to read: torch's fastest kernels know this shape alone.
        num_queries = q_GQHD.shape[1]
        return F.scaled_dot_product_attention(
            q_GQHD.transpose(1, 2),
            key_GKCD[:, :, :num_queries],
            value_GKCD[:, :, :num_queries],
            is_causal=True,
            scale=parameters.scale,
            enable_gqa=q_GQHD.shape[2] != key_GKCD.shape[1],
        ).transpose(1, 2)
    # The heads of one key-value head become further queries of it, so that keys are not copied for each.
    num_rows, num_queries, num_heads, head_dim = q_GQHD.shape
    num_repeats = num_heads // key_GKCD.shape[1]
    q_GKRQD = q_GQHD.view(num_rows, num_queries, -1, num_repeats, head_dim).permute(0, 2, 3, 1, 4)
    mask_G1LC = visible_G1QC if num_queries == 1 else visible_G1QC.repeat(1, 1, num_repeats, 1)
    out_GKLD = _masked_attention(q_GKRQD.flatten(2, 3), key_GKCD, value_GKCD, mask_G1LC, parameters)
    return out_GKLD.reshape(q_GKRQD.shape).permute(0, 3, 1, 2, 4).flatten(2, 3)


def _gather(cache: Tensor, group: RowGroup, unseen_GC: Tensor) -> Tensor:
    """[G, K, C, D] of `cache` [num_blocks, K, block_size, D], zeros for what is unseen: 0 * NaN would be NaN."""
    num_heads, head_dim = cache.shape[1], cache.shape[3]
    blocks = cache.transpose(0, 1).index_select(1, group.block_tables_GB.flatten())
    gathered_KGCD = blocks.view(num_heads, unseen_GC.shape[0], -1, head_dim)
    return gathered_KGCD.masked_fill_(unseen_GC[None, :, :, None], 0).transpose(0, 1)


def _masked_attention(
    q_GKLD: Tensor, key_GKCD: Tensor, value_GKCD: Tensor, mask_G1LC: Tensor, parameters: AttentionParameters
) -> Tensor:
    if not parameters.softcap:
        return F.scaled_dot_product_attention(q_GKLD, key_GKCD, value_GKCD, attn_mask=mask_G1LC, scale=parameters.scale)
    # Scores are bounded before they are masked, which torch's operator cannot do; float32 inside.
    scores_GKLC = q_GKLD.float() @ key_GKCD.float().transpose(2, 3) * (parameters.scale / parameters.softcap)
    scores_GKLC = scores_GKLC.tanh_().mul_(parameters.softcap).masked_fill_(~mask_G1LC, -torch.inf)
    return (scores_GKLC.softmax(dim=-1) @ value_GKCD.float()).to(q_GKLD.dtype)
