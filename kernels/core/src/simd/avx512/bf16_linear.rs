//! The bfloat16 product with `vdpbf16ps`: 16 weight rows a register, two columns a step.

use crate::InstructionSet;
use crate::bf16_linear::{MAX_ROWS, Sums};
use half::bf16;
#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

/// `weights` are whole groups of pairs of columns one after another, `rows` are 1, 2, 4 or 8.
pub(crate) fn multiply(set: InstructionSet, weights: &[u8], rows: &[&[bf16]], sums: &mut Sums) {
    assert!(set.has_avx512_bf16() && rows.len() <= MAX_ROWS);
    let num_pairs = rows[0].len() / 2;
    assert!(rows.iter().all(|row| row.len() == 2 * num_pairs));
    assert!(weights.len().is_multiple_of(num_pairs * 64) && weights.len() <= sums.len() * num_pairs * 64);
    // Few rows need many groups to hide the latency of a sum; many rows fill the registers with two.
    let at_once = if rows.len() <= 2 { 4 } else { 2 };
    let chunks = weights.chunks(at_once * num_pairs * 64).zip(sums.chunks_mut(at_once));
    for (weights, sums) in chunks {
        // SAFETY: `set` proves the features; the lengths are asserted above, and a chunk holds whole groups.
        unsafe {
            match (rows.len(), weights.len() / (num_pairs * 64)) {
                (1, 4) => multiply_rows::<1, 4>(weights, rows, sums),
                (2, 4) => multiply_rows::<2, 4>(weights, rows, sums),
                (4, 2) => multiply_rows::<4, 2>(weights, rows, sums),
                (8, 2) => multiply_rows::<8, 2>(weights, rows, sums),
                (num_rows, _) => {
                    for (weights, sums) in weights.chunks_exact(num_pairs * 64).zip(sums.chunks_mut(1)) {
                        match num_rows {
                            1 => multiply_rows::<1, 1>(weights, rows, sums),
                            2 => multiply_rows::<2, 1>(weights, rows, sums),
                            4 => multiply_rows::<4, 1>(weights, rows, sums),
                            _ => multiply_rows::<8, 1>(weights, rows, sums),
                        }
                    }
                }
            }
        }
    }
}

/// # Safety
/// There are `R` rows of equal and even length, and `G` groups of as many pairs of columns.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply_rows<const R: usize, const G: usize>(
    weights: &[u8],
    rows: &[&[bf16]],
    sums: &mut [[[f32; 16]; MAX_ROWS]],
) {
    assert!(rows.len() == R && sums.len() >= G);
    let num_pairs = rows[0].len() / 2;
    let rows: [*const bf16; R] = std::array::from_fn(|row| rows[row].as_ptr());
    let mut totals = [[_mm512_setzero_ps(); R]; G];
    for pair in 0..num_pairs {
        // SAFETY: `pair` counts the groups' lines and the rows' pairs.
        unsafe {
            let mut lines = [_mm512_setzero_si512(); G];
            for (group, line) in lines.iter_mut().enumerate() {
                *line = _mm512_loadu_si512(weights.as_ptr().add((group * num_pairs + pair) * 64).cast());
            }
            for row in 0..R {
                let x = i32::from_ne_bytes(rows[row].add(2 * pair).cast::<[u8; 4]>().read());
                let x = as_bf16(_mm512_set1_epi32(x));
                for group in 0..G {
                    totals[group][row] = _mm512_dpbf16_ps(totals[group][row], as_bf16(lines[group]), x);
                }
            }
        }
    }
    for (totals, sums) in totals.iter().zip(sums) {
        for (total, sums) in totals.iter().zip(sums) {
            // SAFETY: `sums` is 16 floats.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *total) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn as_bf16(pairs: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(pairs) }
}
