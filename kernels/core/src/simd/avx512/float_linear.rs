//! Float products: 16 weight rows a register; of float32 one column a step, of bfloat16 two, with `vdpbf16ps`.

use crate::InstructionSet;
use crate::float_linear::{MAX_ROWS, STRETCH, Sums};
use half::bf16;
#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

/// The sums of `R` rows and `G` groups. Called with rows of equal length and groups of as many columns.
type MultiplyRows<T> = unsafe fn(&[u8], &[&[T]], &mut [[[f32; 16]; MAX_ROWS]]);

/// How many groups at a time, and with what, for 1, 2, 4 and 8 rows: few rows need many groups to hide the latency of a
/// sum, many rows fill the registers with two. Then one group with the same rows.
type Kernels<T> = [(usize, MultiplyRows<T>, MultiplyRows<T>); 4];

const F32: Kernels<f32> = [
    (4, f32_rows::<1, 4>, f32_rows::<1, 1>),
    (4, f32_rows::<2, 4>, f32_rows::<2, 1>),
    (2, f32_rows::<4, 2>, f32_rows::<4, 1>),
    (2, f32_rows::<8, 2>, f32_rows::<8, 1>),
];
const BF16: Kernels<bf16> = [
    (4, bf16_rows::<1, 4>, bf16_rows::<1, 1>),
    (4, bf16_rows::<2, 4>, bf16_rows::<2, 1>),
    (2, bf16_rows::<4, 2>, bf16_rows::<4, 1>),
    (2, bf16_rows::<8, 2>, bf16_rows::<8, 1>),
];

/// `weights` are whole groups of columns one after another, `rows` are 1, 2, 4 or 8.
pub(crate) fn multiply_f32(set: InstructionSet, weights: &[u8], rows: &[&[f32]], sums: &mut Sums) {
    assert!(set.is_avx512());
    // SAFETY: `set` proves the features that these need.
    unsafe { multiply(&F32, rows[0].len() * 64, weights, rows, sums) }
}

/// `weights` are whole groups of pairs of columns one after another, `rows` are 1, 2, 4 or 8.
pub(crate) fn multiply_bf16(set: InstructionSet, weights: &[u8], rows: &[&[bf16]], sums: &mut Sums) {
    assert!(set.has_avx512_bf16() && rows[0].len().is_multiple_of(2));
    // SAFETY: as above.
    unsafe { multiply(&BF16, rows[0].len() / 2 * 64, weights, rows, sums) }
}

/// # Safety
/// The machine has what the kernels need; `group_bytes` are those of a group of as many columns as a row has.
unsafe fn multiply<T>(kernels: &Kernels<T>, group_bytes: usize, weights: &[u8], rows: &[&[T]], sums: &mut Sums) {
    assert!(rows.len().is_power_of_two() && rows.iter().all(|row| row.len() == rows[0].len()));
    assert!(weights.len().is_multiple_of(group_bytes) && weights.len() <= sums.len() * group_bytes);
    let (at_once, several, one) = kernels[rows.len().ilog2() as usize];
    for (weights, sums) in weights.chunks(at_once * group_bytes).zip(sums.chunks_mut(at_once)) {
        // SAFETY: the lengths are asserted above, and a chunk holds whole groups.
        unsafe {
            if weights.len() == at_once * group_bytes {
                several(weights, rows, sums);
                continue;
            }
            for (weights, sums) in weights.chunks_exact(group_bytes).zip(sums.chunks_mut(1)) {
                one(weights, rows, sums);
            }
        }
    }
}

/// # Safety
/// There are `R` rows of equal length, and `G` groups of as many columns; the machine has AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn f32_rows<const R: usize, const G: usize>(
    weights: &[u8],
    rows: &[&[f32]],
    sums: &mut [[[f32; 16]; MAX_ROWS]],
) {
    assert!(rows.len() == R && sums.len() >= G);
    let num_columns = rows[0].len();
    let rows: [*const f32; R] = std::array::from_fn(|row| rows[row].as_ptr());
    for stretch in (0..num_columns).step_by(STRETCH) {
        let mut totals = [[_mm512_setzero_ps(); R]; G];
        for column in stretch..num_columns.min(stretch + STRETCH) {
            // SAFETY: `column` counts the groups' lines and the rows' values.
            unsafe {
                let mut lines = [_mm512_setzero_ps(); G];
                for (group, line) in lines.iter_mut().enumerate() {
                    *line = _mm512_loadu_ps(weights.as_ptr().add((group * num_columns + column) * 64).cast());
                }
                for row in 0..R {
                    let x = _mm512_set1_ps(*rows[row].add(column));
                    for group in 0..G {
                        totals[group][row] = _mm512_fmadd_ps(lines[group], x, totals[group][row]);
                    }
                }
            }
        }
        for (totals, sums) in totals.iter().zip(&mut *sums) {
            for (total, sums) in totals.iter().zip(sums) {
                // SAFETY: `sums` is 16 floats.
                unsafe {
                    let before = if stretch == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(sums.as_ptr()) };
                    _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_add_ps(before, *total));
                }
            }
        }
    }
}

/// # Safety
/// There are `R` rows of equal and even length, and `G` groups of as many columns; the machine has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_rows<const R: usize, const G: usize>(
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
