"""Rotary position embedding, and the way of keys and values into the paged cache, in one pass.

Shapes: T = tokens in the step, H = query heads, K = kv heads, D = head width, P = positions, R = rotary width (<= D).
"""

import torch
from torch import Tensor

from forebay_kernels.native import library, runs_native
from forebay_kernels.ops.kv_cache import write_kv_cache_reference


def rotary_write_kv(  # noqa: PLR0913 - the field's signature
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    cos_sin_cache_PR: Tensor,
    positions_T: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping_T: Tensor,
) -> None:
    """Rotate queries and keys in place by their positions, then copy keys and values to their slots of the caches.

    Each head's pairs `(x[i], x[i + R / 2])` turn by their position's angle: the half-split order of GPT-NeoX, and of
    Llama in `transformers`. Elements from R on stay. float32 inside.

    Args:
        q_THD: float32, float16 or bfloat16; heads and widths contiguous, the token stride is free (a part of a fused
            projection will do). Modified.
        k_TKD: like `q_THD`. Modified.
        v_TKD: like `q_THD`. Not modified.
        cos_sin_cache_PR: float32 contiguous; a row's first half cosines, its second half sines.
        positions_T: int64 in [0, P).
        key_cache: [num_blocks, K, block_size, D] contiguous, float32, float16 or bfloat16. Modified.
        value_cache: like `key_cache`. Modified.
        slot_mapping_T: int64, `block * block_size + offset`; a negative slot is not written. Of two tokens with one
            slot the later wins.

    Raises:
        ValueError: for a shape, stride, position or slot that does not fit, naming it. TypeError: for a dtype.

    Source: arXiv 2104.09864.
    """
    if not runs_native(q_THD):
        rotary_write_kv_reference(
            q_THD, k_TKD, v_TKD, cos_sin_cache_PR, positions_T, key_cache, value_cache, slot_mapping_T
        )
        return
    library.rotary_write_kv(q_THD, k_TKD, v_TKD, cos_sin_cache_PR, positions_T, key_cache, value_cache, slot_mapping_T)


def rotary_write_kv_reference(  # noqa: PLR0913 - the op's signature
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    cos_sin_cache_PR: Tensor,
    positions_T: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping_T: Tensor,
) -> None:
    """Do what `rotary_write_kv` does with torch operators, on any device. Slots must be distinct."""
    rotary_dim = cos_sin_cache_PR.shape[1]
    cos_T1r, sin_T1r = cos_sin_cache_PR[positions_T][:, None].chunk(2, dim=2)
    for heads in (q_THD, k_TKD):
        first, second = heads[..., :rotary_dim].float().chunk(2, dim=2)
        turned = torch.cat((first * cos_T1r - second * sin_T1r, second * cos_T1r + first * sin_T1r), dim=2)
        heads[..., :rotary_dim] = turned.to(heads.dtype)
    write_kv_cache_reference(k_TKD, v_TKD, key_cache, value_cache, slot_mapping_T)
