//! Puts a step's keys and values into the paged cache.

use crate::threads::{SharedOutput, parallel_for, threads_for};
use crate::{Float, InstructionSet, KernelError, Rows};

/// Where a slot's vector of one head begins in a cache of that shape.
pub(crate) fn slot_start(slot: usize, head: usize, cache_shape: [usize; 4]) -> usize {
    let [_, num_kv_heads, block_size, head_dim] = cache_shape;
    ((slot / block_size * num_kv_heads + head) * block_size + slot % block_size) * head_dim
}

/// Copies each token's keys and values to its slot, converting the dtype; a negative slot skips the token.
///
/// `keys` and `values` have rows of `num_kv_heads * head_dim`; the caches are `[num_blocks, num_kv_heads, block_size,
/// head_dim]`; slot = block * `block_size` + offset. Of two tokens with one slot the later wins.
pub fn write_kv_cache<T: Float, C: Float>(
    [keys, values]: [Rows<'_, T>; 2],
    [key_cache, value_cache]: [&mut [C]; 2],
    cache_shape: [usize; 4],
    slot_mapping: &[i64],
    set: InstructionSet,
) -> Result<(), KernelError> {
    let [num_blocks, num_kv_heads, block_size, head_dim] = cache_shape;
    let num_slots = num_blocks * block_size;
    for (name, rows) in [("key", keys), ("value", values)] {
        if rows.row_length() != num_kv_heads * head_dim {
            return Err(KernelError::RowLength { name, expected: num_kv_heads * head_dim, got: rows.row_length() });
        }
        if rows.num_rows() != slot_mapping.len() {
            return Err(KernelError::Count { name, expected: slot_mapping.len(), got: rows.num_rows() });
        }
    }
    for (name, cache) in [("key_cache", &key_cache), ("value_cache", &value_cache)] {
        if cache.len() != num_slots * num_kv_heads * head_dim {
            return Err(KernelError::Count { name, expected: num_slots * num_kv_heads * head_dim, got: cache.len() });
        }
    }
    if let Some(at) = slot_mapping.iter().position(|slot| *slot >= num_slots as i64) {
        return Err(KernelError::Index { name: "slot_mapping", at, got: slot_mapping[at], limit: num_slots });
    }
    let sides = [(keys, SharedOutput::new(key_cache)), (values, SharedOutput::new(value_cache))];
    let num_threads = threads_for(slot_mapping.len() * num_kv_heads * head_dim / 8);
    // By side and head, not by token: should two tokens have one slot, one task writes both, in order.
    parallel_for(num_threads, 2 * num_kv_heads, |task| {
        let (head, (rows, cache)) = (task / 2, sides[task % 2]);
        for (token, slot) in slot_mapping.iter().enumerate() {
            let Ok(slot) = usize::try_from(*slot) else { continue };
            let start = slot_start(slot, head, cache_shape);
            #[allow(unsafe_code)]
            // SAFETY: each task writes one head of one cache; within a task one part is held at a time.
            let out = unsafe { cache.part(start, head_dim) };
            let row = &rows.row(token)[head * head_dim..(head + 1) * head_dim];
            set.vectorize(
                #[inline(always)]
                || {
                    for (out, value) in out.iter_mut().zip(row) {
                        *out = C::from_f32(value.to_f32());
                    }
                },
            );
        }
    });
    Ok(())
}
