"""Causal attention over a paged cache, for prompt chunks and decodes of many sequences in one call.

Shapes: T = tokens in the step, H = query heads, D = head width, S = sequences, B = most blocks a sequence,
P = positions of one sequence, Lq = queries of one sequence.
"""

import torch
from torch import Tensor

from forebay_kernels.native import library, runs_native


def paged_attention(  # noqa: PLR0913 - the field's signature
    q_THD: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables_SB: Tensor,
    context_lens_S: Tensor,
    cu_seqlens_q_S1: Tensor,
    scale: float,
    *,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """Attend from each query to the positions of its sequence up to its own, or to the last `window` of them.

    Sequence s has the queries `cu_seqlens_q_S1[s]` to `cu_seqlens_q_S1[s + 1]`, Lq of them; query i sits at position
    `context_lens_S[s] - Lq + i`, and its key is already in the cache. float32 inside; a query's result is bit-equal
    whether it comes in a whole prompt, in a chunk or alone (same instruction set and dtypes).

    Args:
        q_THD: float32, float16 or bfloat16; heads and widths contiguous, the token stride is free.
        key_cache: [num_blocks, num_kv_heads, block_size, D] contiguous, float32, float16 or bfloat16; num_kv_heads
            divides H: head h reads kv head `h // (H / num_kv_heads)`.
        value_cache: like `key_cache`.
        block_tables_SB: int32; block i of a row holds positions from `i * block_size`. Entries past the context,
            and those of blocks that lie before every window, are not read.
        context_lens_S: int32, positions of each sequence with this step's tokens.
        cu_seqlens_q_S1: int32, first token of each sequence, then T.
        scale: multiplied with the scores, usually `D ** -0.5`.
        window: a query at position p sees the keys at `p - window + 1` to `p`; 0: all up to p.
        softcap: scores become `softcap * tanh(score / softcap)` after scaling; 0: they stay.

    Returns:
        [T, H, D] contiguous, in q's dtype. Modifies nothing.

    Raises:
        ValueError: for a shape, stride, length or block index that does not fit, naming it. TypeError: for a dtype.

    Source: paged attention, arXiv 2309.06180; online softmax, arXiv 1805.02867; soft caps, arXiv 2408.00118.
    """
    tensors = (q_THD, key_cache, value_cache, block_tables_SB, context_lens_S, cu_seqlens_q_S1)
    if not runs_native(q_THD):
        return paged_attention_reference(*tensors, scale, window=window, softcap=softcap)
    return library.paged_attention(*tensors, scale, window, softcap)


def paged_attention_reference(  # noqa: PLR0913 - the op's signature
    q_THD: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables_SB: Tensor,
    context_lens_S: Tensor,
    cu_seqlens_q_S1: Tensor,
    scale: float,
    *,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """Compute what `paged_attention` computes with torch operators: gather, mask, softmax; on any device."""
    out_THD = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
    group_size = q_THD.shape[1] // key_cache.shape[1]
    starts = cu_seqlens_q_S1.tolist()
    for s, context_len in enumerate(context_lens_S.tolist()):
        q_LHD = q_THD[starts[s] : starts[s + 1]].float()
        # What lies before every window need not hold anything: it becomes zeros, for 0 * NaN would be NaN.
        num_unseen = max(0, context_len - q_LHD.shape[0] + 1 - window) if window else 0
        key_PHD, value_PHD = (
            _gather(cache, block_tables_SB[s], num_unseen, context_len).repeat_interleave(group_size, dim=1)
            for cache in (key_cache, value_cache)
        )
        scores_HLP = torch.einsum("lhd,phd->hlp", q_LHD, key_PHD) * scale
        if softcap:
            scores_HLP = softcap * (scores_HLP / softcap).tanh()
        position_P = torch.arange(context_len, device=q_THD.device)
        distance_LP = position_P[context_len - q_LHD.shape[0] :, None] - position_P[None, :]
        hidden_LP = distance_LP < 0
        if window:
            hidden_LP |= distance_LP >= window
        weights_HLP = scores_HLP.masked_fill(hidden_LP, float("-inf")).softmax(dim=2)
        out_THD[starts[s] : starts[s + 1]] = torch.einsum("hlp,phd->lhd", weights_HLP, value_PHD).to(q_THD.dtype)
    return out_THD


def _gather(cache: Tensor, block_table_B: Tensor, num_unseen: int, context_len: int) -> Tensor:
    block_size = cache.shape[2]
    first_block = num_unseen // block_size
    blocks = cache[block_table_B[first_block : (context_len + block_size - 1) // block_size].long()]
    seen_PKD = blocks.transpose(1, 2).flatten(0, 1)[: context_len - first_block * block_size].float()
    seen_PKD = seen_PKD[num_unseen - first_block * block_size :]
    return torch.cat((seen_PKD.new_zeros(num_unseen, *seen_PKD.shape[1:]), seen_PKD))
