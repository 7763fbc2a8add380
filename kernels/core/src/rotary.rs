//! Rotary position embedding of queries and keys, and the keys' and values' way into the paged cache, in one pass.

use crate::paged_attention::slot_start;
use crate::threads::{SharedOutput, parallel_for, run_length, threads_for};
use crate::{Float, InstructionSet, KernelError, RowsMut};

/// What a call rotates and writes; a row is a token.
pub struct RotaryInputs<'a, T> {
    /// `num_heads * head_dim` a row; rotated in place.
    pub queries: RowsMut<'a, T>,
    /// `num_kv_heads * head_dim` a row; rotated in place.
    pub keys: RowsMut<'a, T>,
    /// Like `keys`; only read.
    pub values: RowsMut<'a, T>,
    /// Each token's row of the table.
    pub positions: &'a [i64],
    /// Each token's slot; negative: not written to the cache.
    pub slot_mapping: &'a [i64],
}

/// Cosines and sines of each position: `[num_positions, rotary_dim]`, a row's first half cosines, its second sines.
#[derive(Debug, Clone, Copy)]
pub struct RotaryTable<'a> {
    /// The rows, contiguous.
    pub cos_sin: &'a [f32],
    /// Elements of a head that turn; the rest of the head stays.
    pub rotary_dim: usize,
}

/// The paged cache to write: keys and values, each `[num_blocks, num_kv_heads, block_size, head_dim]`.
pub struct CacheMut<'a, C> {
    /// Keys.
    pub keys: &'a mut [C],
    /// Values.
    pub values: &'a mut [C],
    /// Both tensors' shape.
    pub shape: [usize; 4],
}

/// Turns each head's pairs `(x[i], x[i + rotary_dim / 2])` by their position's angle (half-split, as `NeoX` and Llama in
/// `transformers` order them), then writes keys and values to their slots.
///
/// Of two tokens with one slot the later wins. Source: arXiv 2104.09864.
pub fn rotary_write_kv<T: Float, C: Float>(
    inputs: &RotaryInputs<'_, T>,
    table: RotaryTable<'_>,
    cache: CacheMut<'_, C>,
    set: InstructionSet,
) -> Result<(), KernelError> {
    check(inputs, table, &cache)?;
    let writer = KvWriter::new(table, cache, set);
    let num_tokens = inputs.positions.len();
    let width = inputs.queries.row_length() + 2 * inputs.keys.row_length();
    let num_threads = if has_repeats(inputs.slot_mapping) { 1 } else { threads_for(num_tokens * width / 4) };
    let length = run_length(num_tokens, num_threads);
    parallel_for(num_threads, num_tokens.div_ceil(length), |task| {
        for token in task * length..num_tokens.min((task + 1) * length) {
            #[allow(unsafe_code)]
            // SAFETY: each token belongs to one task, which alone takes its rows; slots are distinct when there is more
            // than one thread.
            unsafe {
                let (query, key) = (inputs.queries.row_mut(token), inputs.keys.row_mut(token));
                let value = inputs.values.row_mut(token);
                writer.write(query, key, value, inputs.positions[token], inputs.slot_mapping[token]);
            }
        }
    });
    Ok(())
}

/// Turns one token's heads and writes its keys and values; for many tasks at once.
pub(crate) struct KvWriter<'a, C> {
    table: RotaryTable<'a>,
    pub(crate) keys: SharedOutput<'a, C>,
    pub(crate) values: SharedOutput<'a, C>,
    pub(crate) shape: [usize; 4],
    set: InstructionSet,
}

impl<'a, C: Float> KvWriter<'a, C> {
    pub(crate) fn new(table: RotaryTable<'a>, cache: CacheMut<'a, C>, set: InstructionSet) -> Self {
        let CacheMut { keys, values, shape } = cache;
        Self { table, keys: SharedOutput::new(keys), values: SharedOutput::new(values), shape, set }
    }

    /// `query` and `key` are turned in place.
    ///
    /// # Safety
    /// No other task writes the slot or reads it meanwhile.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn write<T: Float>(&self, query: &mut [T], key: &mut [T], value: &[T], position: i64, slot: i64) {
        let head_dim = self.shape[3];
        let width = self.table.rotary_dim;
        let angles = &self.table.cos_sin[position as usize * width..][..width];
        self.set.vectorize(
            #[inline(always)]
            || {
                rotate(query, angles, head_dim);
                rotate(key, angles, head_dim);
            },
        );
        let Ok(slot) = usize::try_from(slot) else { return };
        for (cache, row) in [(self.keys, &*key), (self.values, value)] {
            for (head, row) in row.chunks_exact(head_dim).enumerate() {
                // SAFETY: the caller's promise; a slot's heads are disjoint.
                let out = unsafe { cache.part(slot_start(slot, head, self.shape), head_dim) };
                self.set.vectorize(
                    #[inline(always)]
                    || {
                        for (out, value) in out.iter_mut().zip(row) {
                            *out = C::from_f32(value.to_f32());
                        }
                    },
                );
            }
        }
    }
}

#[inline(always)]
fn rotate<T: Float>(row: &mut [T], angles: &[f32], head_dim: usize) {
    let half = angles.len() / 2;
    let (cosines, sines) = angles.split_at(half);
    for head in row.chunks_exact_mut(head_dim) {
        let (first, rest) = head.split_at_mut(half);
        for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cosines).zip(sines) {
            let (x, y) = (a.to_f32(), b.to_f32());
            *a = T::from_f32(x * cos - y * sin);
            *b = T::from_f32(y * cos + x * sin);
        }
    }
}

/// Whether two tokens have one slot: such a batch is written by one thread, so that the later token wins.
pub(crate) fn has_repeats(slots: &[i64]) -> bool {
    let mut sorted: Vec<i64> = slots.iter().copied().filter(|slot| *slot >= 0).collect();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

fn check<T, C>(
    inputs: &RotaryInputs<'_, T>,
    table: RotaryTable<'_>,
    cache: &CacheMut<'_, C>,
) -> Result<(), KernelError> {
    let [num_blocks, num_kv_heads, block_size, head_dim] = cache.shape;
    let (num_tokens, num_slots) = (inputs.positions.len(), num_blocks * block_size);
    let counts = [
        ("q", num_tokens, inputs.queries.num_rows()),
        ("k", num_tokens, inputs.keys.num_rows()),
        ("v", num_tokens, inputs.values.num_rows()),
        ("slot_mapping", num_tokens, inputs.slot_mapping.len()),
        ("key_cache", num_slots * num_kv_heads * head_dim, cache.keys.len()),
        ("value_cache", num_slots * num_kv_heads * head_dim, cache.values.len()),
    ];
    for (name, expected, got) in counts {
        if expected != got {
            return Err(KernelError::Count { name, expected, got });
        }
    }
    for (name, rows) in [("k", &inputs.keys), ("v", &inputs.values)] {
        if rows.row_length() != num_kv_heads * head_dim && num_tokens > 0 {
            return Err(KernelError::RowLength { name, expected: num_kv_heads * head_dim, got: rows.row_length() });
        }
    }
    if head_dim == 0 || !inputs.queries.row_length().is_multiple_of(head_dim) {
        return Err(KernelError::RowLength { name: "q", expected: head_dim, got: inputs.queries.row_length() });
    }
    check_places(table, head_dim, inputs.positions, inputs.slot_mapping, num_slots)
}

/// Refuses a table that does not fit the heads, and positions and slots outside of table and cache.
pub(crate) fn check_places(
    table: RotaryTable<'_>,
    head_dim: usize,
    positions: &[i64],
    slot_mapping: &[i64],
    num_slots: usize,
) -> Result<(), KernelError> {
    if !table.rotary_dim.is_multiple_of(2) || table.rotary_dim > head_dim || table.rotary_dim == 0 {
        let (got, expected) = (table.rotary_dim.to_string(), format!("an even width of 2 to {head_dim} (head_dim)"));
        return Err(KernelError::Value { name: "cos_sin_cache", got, expected });
    }
    check_indices("positions", positions, table.cos_sin.len() / table.rotary_dim, 0)?;
    check_indices("slot_mapping", slot_mapping, num_slots, i64::MIN)
}

fn check_indices(name: &'static str, indices: &[i64], limit: usize, least: i64) -> Result<(), KernelError> {
    match indices.iter().position(|index| *index < least || *index >= limit as i64) {
        Some(at) => Err(KernelError::Index { name, at, got: indices[at], limit }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Written = (Vec<f32>, Vec<f32>, Vec<f32>);

    /// Two heads of queries and one of keys, four wide, of which two turn; a table of quarter turns.
    fn run(positions: &[i64], slots: &[i64]) -> Result<Written, KernelError> {
        let num_tokens = positions.len();
        let mut q: Vec<f32> = (0..num_tokens * 8).map(|i| i as f32).collect();
        let (mut k, mut v) = (vec![1.0; num_tokens * 4], vec![5.0; num_tokens * 4]);
        let (mut keys, mut values) = (vec![0.0f32; 4 * 4], vec![0.0f32; 4 * 4]);
        let inputs = RotaryInputs {
            queries: RowsMut::contiguous(&mut q, 8),
            keys: RowsMut::contiguous(&mut k, 4),
            values: RowsMut::contiguous(&mut v, 4),
            positions,
            slot_mapping: slots,
        };
        let table = RotaryTable { cos_sin: &[1.0, 0.0, 0.0, 1.0], rotary_dim: 2 };
        let cache = CacheMut { keys: &mut keys, values: &mut values, shape: [2, 1, 2, 4] };
        rotary_write_kv(&inputs, table, cache, InstructionSet::best())?;
        Ok((q, keys, values))
    }

    #[test]
    fn a_quarter_turn_swaps_the_pair_and_leaves_what_lies_beyond_the_rotary_width() {
        let (q, keys, values) = run(&[0, 1], &[-1, 3]).unwrap();
        assert_eq!(q[..8], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(q[8..], [-9.0, 8.0, 10.0, 11.0, -13.0, 12.0, 14.0, 15.0]);
        assert_eq!(keys[12..], [-1.0, 1.0, 1.0, 1.0]);
        assert_eq!(values[12..], [5.0; 4]);
        assert!(keys[..12].iter().chain(&values[..12]).all(|x| x.abs() < f32::EPSILON));
    }

    #[test]
    fn positions_and_slots_outside_their_tables_are_refused() {
        assert_eq!(run(&[2], &[0]), Err(KernelError::Index { name: "positions", at: 0, got: 2, limit: 2 }));
        assert_eq!(run(&[0, -1], &[0, 1]), Err(KernelError::Index { name: "positions", at: 1, got: -1, limit: 2 }));
        assert_eq!(run(&[0], &[4]), Err(KernelError::Index { name: "slot_mapping", at: 0, got: 4, limit: 4 }));
    }
}
