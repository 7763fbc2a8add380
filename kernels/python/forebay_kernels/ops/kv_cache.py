"""Writing a step's keys and values into the paged cache.

Shapes: T = tokens in the step, K = kv heads, D = head width.
"""

from torch import Tensor

from forebay_kernels.native import library, runs_native


def write_kv_cache(
    key_TKD: Tensor, value_TKD: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping_T: Tensor
) -> None:
    """Copy each token's keys and values to its slot of the caches, converting to the caches' dtype.

    Args:
        key_TKD: float32, float16 or bfloat16; heads and widths contiguous, the token stride is free.
        value_TKD: like `key_TKD`.
        key_cache: [num_blocks, K, block_size, D] contiguous, float32, float16 or bfloat16. Modified.
        value_cache: like `key_cache`. Modified.
        slot_mapping_T: int64, `block * block_size + offset`; a negative slot skips the token. Of two tokens with one
            slot the later wins.

    Raises:
        ValueError: for a shape, stride or slot that does not fit, naming it. TypeError: for a dtype.
    """
    if not runs_native(key_TKD):
        write_kv_cache_reference(key_TKD, value_TKD, key_cache, value_cache, slot_mapping_T)
        return
    library.write_kv_cache(key_TKD, value_TKD, key_cache, value_cache, slot_mapping_T)


def write_kv_cache_reference(
    key_TKD: Tensor, value_TKD: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping_T: Tensor
) -> None:
    """Do what `write_kv_cache` does with torch operators, on any device. Slots must be distinct."""
    block_size = key_cache.shape[2]
    written = slot_mapping_T >= 0
    slots = slot_mapping_T[written]
    key_cache[slots // block_size, :, slots % block_size] = key_TKD[written].to(key_cache.dtype)
    value_cache[slots // block_size, :, slots % block_size] = value_TKD[written].to(value_cache.dtype)
