"""Causal attention over a paged cache, for prompt chunks and decodes of many sequences in one call.

Shapes: T = tokens in the step, H = query heads, D = head width, S = sequences, B = most blocks a sequence,
P = positions of one sequence, Lq = queries of one sequence.
"""

import torch
from torch import Tensor

from forebay_kernels import _native


def paged_attention(  # noqa: PLR0913 - the field's signature
    q_THD: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables_SB: Tensor,
    context_lens_S: Tensor,
    cu_seqlens_q_S1: Tensor,
    scale: float,
) -> Tensor:
    """Attend from each query to all positions of its sequence up to its own.

    Sequence s has the queries `cu_seqlens_q_S1[s]` to `cu_seqlens_q_S1[s + 1]`, Lq of them; query i sits at position
    `context_lens_S[s] - Lq + i`, and its key is already in the cache. float32 inside; a query's result is bit-equal
    whether it comes in a whole prompt, in a chunk or alone (same instruction set and dtypes).

    Args:
        q_THD: float32, float16 or bfloat16; heads and widths contiguous, the token stride is free.
        key_cache: [num_blocks, num_kv_heads, block_size, D] contiguous, float32, float16 or bfloat16; num_kv_heads
            divides H: head h reads kv head `h // (H / num_kv_heads)`.
        value_cache: like `key_cache`.
        block_tables_SB: int32; block i of a row holds positions from `i * block_size`. Entries past the context are
            not read.
        context_lens_S: int32, positions of each sequence with this step's tokens.
        cu_seqlens_q_S1: int32, first token of each sequence, then T.
        scale: multiplied with the scores, usually `D ** -0.5`.

    Returns:
        [T, H, D] contiguous, in q's dtype. Modifies nothing.

    Raises:
        ValueError: for a shape, stride, length or block index that does not fit, naming it. TypeError: for a dtype.

    Source: paged attention, arXiv 2309.06180; online softmax, arXiv 1805.02867.
    """
    if not q_THD.is_cpu:
        return paged_attention_reference(
            q_THD, key_cache, value_cache, block_tables_SB, context_lens_S, cu_seqlens_q_S1, scale
        )
    return _native.paged_attention(
        q_THD, key_cache, value_cache, block_tables_SB, context_lens_S, cu_seqlens_q_S1, scale
    )


def paged_attention_reference(  # noqa: PLR0913 - the op's signature
    q_THD: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables_SB: Tensor,
    context_lens_S: Tensor,
    cu_seqlens_q_S1: Tensor,
    scale: float,
) -> Tensor:
    """Compute what `paged_attention` computes with torch operators: gather, mask, softmax; on any device."""
    out_THD = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
    group_size = q_THD.shape[1] // key_cache.shape[1]
    starts = cu_seqlens_q_S1.tolist()
    for s, context_len in enumerate(context_lens_S.tolist()):
        q_LHD = q_THD[starts[s] : starts[s + 1]].float()
        key_PHD = _gather(key_cache, block_tables_SB[s], context_len).repeat_interleave(group_size, dim=1)
        value_PHD = _gather(value_cache, block_tables_SB[s], context_len).repeat_interleave(group_size, dim=1)
        scores_HLP = torch.einsum("lhd,phd->hlp", q_LHD, key_PHD) * scale
        position_P = torch.arange(context_len, device=q_THD.device)
        hidden_LP = position_P[None, :] > position_P[context_len - q_LHD.shape[0] :, None]
        weights_HLP = scores_HLP.masked_fill(hidden_LP, float("-inf")).softmax(dim=2)
        out_THD[starts[s] : starts[s + 1]] = torch.einsum("hlp,phd->lhd", weights_HLP, value_PHD).to(q_THD.dtype)
    return out_THD


def _gather(cache: Tensor, block_table_B: Tensor, context_len: int) -> Tensor:
    block_size = cache.shape[2]
    blocks = cache[block_table_B[: (context_len + block_size - 1) // block_size].long()]
    return blocks.transpose(1, 2).flatten(0, 1)[:context_len].float()
