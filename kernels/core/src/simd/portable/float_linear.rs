//! Float products in plain Rust: sums of bfloat16 differ from those of `vdpbf16ps` by their rounding.

use crate::float_linear::{GROUP, STRETCH, Sums};
use half::bf16;

/// `weights` are whole groups of pairs of columns one after another.
#[inline(always)]
pub(crate) fn multiply_bf16(weights: &[u8], rows: &[&[bf16]], sums: &mut Sums) {
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

/// `weights` are whole groups of columns one after another.
pub(crate) fn multiply_f32(weights: &[u8], rows: &[&[f32]], sums: &mut Sums) {
    for (weights, sums) in weights.chunks_exact(rows[0].len() * 64).zip(sums) {
        for (row, sums) in rows.iter().zip(sums) {
            *sums = [0.0; GROUP];
            for (weights, row) in weights.chunks(STRETCH * 64).zip(row.chunks(STRETCH)) {
                let mut totals = [0.0f32; GROUP];
                for (line, x) in weights.chunks_exact(64).zip(row) {
                    for (total, value) in totals.iter_mut().zip(line.chunks_exact(4)) {
                        *total += f32::from_le_bytes([value[0], value[1], value[2], value[3]]) * x;
                    }
                }
                for (sum, total) in sums.iter_mut().zip(totals) {
                    *sum += total;
                }
            }
        }
    }
}
