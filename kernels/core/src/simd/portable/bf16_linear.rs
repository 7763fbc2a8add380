//! The bfloat16 product in plain Rust: sums differ from those of `vdpbf16ps` by their rounding.

use crate::bf16_linear::{GROUP, Sums};
use half::bf16;

/// `weights` are whole groups of pairs of columns one after another.
#[inline(always)]
pub(crate) fn multiply(weights: &[u8], rows: &[&[bf16]], sums: &mut Sums) {
    let group_bytes = rows[0].len() / 2 * 64;
    for (weights, sums) in weights.chunks_exact(group_bytes).zip(sums) {
        for (row, sums) in rows.iter().zip(sums) {
            let mut totals = [0.0f32; GROUP];
            for (line, x) in weights.chunks_exact(64).zip(row.chunks_exact(2)) {
                let (even, odd) = (x[0].to_f32(), x[1].to_f32());
                for (total, pair) in totals.iter_mut().zip(line.chunks_exact(4)) {
                    let pair = u32::from_le_bytes([pair[0], pair[1], pair[2], pair[3]]);
                    *total += f32::from_bits(pair << 16) * even;
                    *total += f32::from_bits(pair & 0xffff_0000) * odd;
                }
            }
            *sums = totals;
        }
    }
}
