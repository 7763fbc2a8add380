//! Root-mean-square normalization, with the residual addition that comes before it.

use crate::threads::{SharedOutput, parallel_for, run_length, threads_for};
use crate::{Float, InstructionSet, KernelError, Rows};

/// Sums of squares kept side by side: an order of summation that vectorizes and is the same everywhere.
const LANES: usize = 32;

/// What is fixed of one norm of float32 rows.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm<'a> {
    /// As long as the rows, or as their pieces.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm<'_> {
    /// Normalizes each piece of the row in place.
    #[inline(always)]
    pub(crate) fn apply(&self, row: &mut [f32]) {
        for piece in row.chunks_exact_mut(self.weight.len()) {
            let scale = inverse_rms(piece, self.eps);
            for (x, weight) in piece.iter_mut().zip(self.weight) {
                *x = *x * scale * weight;
            }
        }
    }
}

/// `out[t] = h / rms(h) * weight` with `h = x[t]`, or `h = x[t] + residual[t]`, then stored to `sum[t]`.
///
/// A row of several times `weight.len()` is normalized piece by piece (heads). `rms(h) = sqrt(mean(h^2) + eps)`. float32 inside; with a residual, `h` is rounded to T first, as it is stored.
/// `out` (and `sum`, with `residual`) are contiguous, of x's shape. Source: arXiv 1910.07467, eq. 4.
pub fn rms_norm<T: Float, W: Float>(
    x: Rows<'_, T>,
    weight: &[W],
    eps: f32,
    residual: Option<(Rows<'_, T>, &mut [T])>,
    out: &mut [T],
    set: InstructionSet,
) -> Result<(), KernelError> {
    let (num_rows, width) = (x.num_rows(), x.row_length());
    if weight.is_empty() || !width.is_multiple_of(weight.len()) {
        return Err(KernelError::Count { name: "weight", expected: width, got: weight.len() });
    }
    check("out", num_rows * width, out.len())?;
    if let Some((residual, sum)) = &residual {
        check("residual", width, residual.row_length())?;
        check("residual", num_rows, residual.num_rows())?;
        check("sum", num_rows * width, sum.len())?;
    }
    let out = SharedOutput::new(out);
    let residual = residual.map(|(residual, sum)| (residual, SharedOutput::new(sum)));
    // One thread normalizes about 8 values a nanosecond.
    let num_threads = threads_for(num_rows * width / 8);
    let length = run_length(num_rows, num_threads);
    parallel_for(num_threads, num_rows.div_ceil(length), |task| {
        for row in task * length..num_rows.min((task + 1) * length) {
            #[allow(unsafe_code)]
            // SAFETY: rows are disjoint, and each belongs to one task.
            let (out, sum) = unsafe {
                (
                    out.part(row * width, width),
                    residual.as_ref().map(|(rows, sum)| (*rows, sum.part(row * width, width))),
                )
            };
            set.vectorize(
                #[inline(always)]
                || match sum {
                    Some((residual, sum)) => {
                        for ((sum, x), residual) in sum.iter_mut().zip(x.row(row)).zip(residual.row(row)) {
                            *sum = T::from_f32(x.to_f32() + residual.to_f32());
                        }
                        normalize_pieces(sum, weight, eps, out);
                    }
                    None => normalize_pieces(x.row(row), weight, eps, out),
                },
            );
        }
    });
    Ok(())
}

#[inline(always)]
fn normalize_pieces<T: Float, W: Float>(row: &[T], weight: &[W], eps: f32, out: &mut [T]) {
    for (row, out) in row.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        normalize(row, weight, eps, out);
    }
}

#[inline(always)]
fn normalize<T: Float, W: Float>(row: &[T], weight: &[W], eps: f32, out: &mut [T]) {
    let scale = inverse_rms(row, eps);
    for ((out, x), weight) in out.iter_mut().zip(row).zip(weight) {
        *out = T::from_f32(x.to_f32() * scale * weight.to_f32());
    }
}

/// `1 / rms(row)`.
#[inline(always)]
pub(crate) fn inverse_rms<T: Float>(row: &[T], eps: f32) -> f32 {
    let mut squares = [0.0f32; LANES];
    for part in row.chunks(LANES) {
        for (square, x) in squares.iter_mut().zip(part) {
            *square += x.to_f32() * x.to_f32();
        }
    }
    let mean = squares.iter().sum::<f32>() / row.len() as f32;
    1.0 / (mean + eps).sqrt()
}

fn check(name: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Count { name, expected, got }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_unit_root_mean_square_times_weight_and_the_sum_is_kept() {
        let x: Vec<f32> = (0..200).map(|i| (i as f32 * 0.7).sin()).collect();
        let residual: Vec<f32> = (0..200).map(|i| (i as f32 * 0.3).cos()).collect();
        for set in InstructionSet::available() {
            let (mut out, mut sum) = ([0.0; 200], [0.0; 200]);
            let pair = Some((Rows::contiguous(&residual, 100), &mut sum[..]));
            rms_norm(Rows::contiguous(&x, 100), &[2.0f32; 100], 0.0, pair, &mut out, set).unwrap();
            for row in out.chunks_exact(100) {
                let mean: f32 = row.iter().map(|y| y * y).sum::<f32>() / 100.0;
                assert!((mean - 4.0).abs() < 1e-5, "{mean}");
            }
            assert!(sum.iter().zip(x.iter().zip(&residual)).all(|(sum, (x, r))| (sum - (x + r)).abs() < 1e-7));
        }
    }

    #[test]
    fn heads_of_a_row_are_normalized_each_on_its_own() {
        let x: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin() * (i / 32 + 1) as f32).collect();
        let weight: Vec<f32> = (0..32).map(|i| i as f32 * 0.1).collect();
        let norm = |width: usize| {
            let mut out = [0.0; 96];
            rms_norm(Rows::contiguous(&x, width), &weight, 1e-5, None, &mut out, InstructionSet::best()).unwrap();
            out.map(f32::to_bits)
        };
        assert_eq!(norm(96), norm(32));
    }

    #[test]
    fn a_weight_of_another_width_is_refused() {
        let x = [1.0f32; 8];
        let error =
            rms_norm(Rows::contiguous(&x, 8), &[1.0f32; 7], 1e-5, None, &mut [0.0; 8], InstructionSet::PORTABLE);
        assert_eq!(error, Err(KernelError::Count { name: "weight", expected: 8, got: 7 }));
    }
}
