//! The float32 product: 16 weight rows in two registers, one column a step.

use crate::InstructionSet;
use crate::float_linear::{GROUP, STRETCH, Sums};
#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

/// `weights` are whole groups of columns one after another, `rows` are 1, 2, 4 or 8.
pub(crate) fn multiply_f32(set: InstructionSet, weights: &[u8], rows: &[&[f32]], sums: &mut Sums) {
    assert!(set.is_avx2() && rows.iter().all(|row| row.len() == rows[0].len()));
    for (weights, sums) in weights.chunks_exact(rows[0].len() * 4 * GROUP).zip(sums) {
        for (rows, sums) in rows.chunks(4).zip(sums.chunks_mut(4)) {
            // SAFETY: `set` proves the features; the rows are of equal length, and the group has as many columns.
            unsafe {
                match rows.len() {
                    1 => multiply_rows::<1>(weights, rows, sums),
                    2 => multiply_rows::<2>(weights, rows, sums),
                    _ => multiply_rows::<4>(weights, rows, sums),
                }
            }
        }
    }
}

/// # Safety
/// There are `R` rows of equal length, and the group has as many columns.
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_rows<const R: usize>(weights: &[u8], rows: &[&[f32]], sums: &mut [[f32; GROUP]]) {
    assert!(rows.len() == R && sums.len() >= R);
    let num_columns = rows[0].len();
    let rows: [*const f32; R] = std::array::from_fn(|row| rows[row].as_ptr());
    for stretch in (0..num_columns).step_by(STRETCH) {
        let mut totals = [[_mm256_setzero_ps(); 2]; R];
        for column in stretch..num_columns.min(stretch + STRETCH) {
            // SAFETY: `column` counts the group's lines and the rows' values.
            unsafe {
                let line: *const f32 = weights.as_ptr().add(column * 4 * GROUP).cast();
                let line = [_mm256_loadu_ps(line), _mm256_loadu_ps(line.add(8))];
                for row in 0..R {
                    let x = _mm256_broadcast_ss(&*rows[row].add(column));
                    for half in 0..2 {
                        totals[row][half] = _mm256_fmadd_ps(line[half], x, totals[row][half]);
                    }
                }
            }
        }
        for (totals, sums) in totals.iter().zip(&mut *sums) {
            for (total, sums) in totals.iter().zip(sums.chunks_exact_mut(8)) {
                // SAFETY: `sums` is 8 floats.
                unsafe {
                    let before = if stretch == 0 { _mm256_setzero_ps() } else { _mm256_loadu_ps(sums.as_ptr()) };
                    _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_add_ps(before, *total));
                }
            }
        }
    }
}
