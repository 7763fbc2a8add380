//! The gate of a gated feed-forward layer.

use crate::elementary::exp;
use crate::threads::{SharedOutput, parallel_for, run_length, threads_for};
use crate::{Float, InstructionSet, KernelError, Rows};

/// `out[t, i] = silu(x[t, i]) * x[t, I + i]` with `silu(g) = g / (1 + e^-g)`; `x` has rows of `2 I`, gate first.
///
/// float32 inside. `out` is contiguous `[x.num_rows(), I]`. Source: `SwiGLU`, arXiv 2002.05202.
pub fn silu_and_mul<T: Float>(x: Rows<'_, T>, out: &mut [T], set: InstructionSet) -> Result<(), KernelError> {
    let (num_rows, width) = (x.num_rows(), x.row_length() / 2);
    if !x.row_length().is_multiple_of(2) {
        return Err(KernelError::RowLength { name: "gate_up", expected: 2 * width + 2, got: x.row_length() });
    }
    if out.len() != num_rows * width {
        return Err(KernelError::Count { name: "out", expected: num_rows * width, got: out.len() });
    }
    let out = SharedOutput::new(out);
    // One thread makes about 2 values a nanosecond.
    let num_threads = threads_for(num_rows * width / 2);
    let length = run_length(num_rows, num_threads);
    parallel_for(num_threads, num_rows.div_ceil(length), |task| {
        for row in task * length..num_rows.min((task + 1) * length) {
            #[allow(unsafe_code)]
            // SAFETY: rows are disjoint, and each belongs to one task.
            let out = unsafe { out.part(row * width, width) };
            let (gate, up) = x.row(row).split_at(width);
            set.vectorize(
                #[inline(always)]
                || {
                    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                        *out = T::from_f32(silu(gate.to_f32()) * up.to_f32());
                    }
                },
            );
        }
    });
    Ok(())
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    // e^88 is the last that `exp` can do; beyond, silu is below 1e-36. A NaN is not above 88 and stays.
    let negated = if -x > 88.0 { 88.0 } else { -x };
    x / (1.0 + exp(negated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_matches_float64_over_its_whole_range() {
        let gates: Vec<f32> = (-1000..=1000).map(|i| i as f32 * 0.11).collect();
        let row: Vec<f32> = gates.iter().copied().chain(gates.iter().map(|_| 2.0)).collect();
        for set in InstructionSet::available() {
            let mut out = vec![0.0; gates.len()];
            silu_and_mul(Rows::contiguous(&row, row.len()), &mut out, set).unwrap();
            for (gate, out) in gates.iter().zip(&out) {
                let exact = 2.0 * f64::from(*gate) / (1.0 + (-f64::from(*gate)).exp());
                assert!((f64::from(*out) - exact).abs() <= 1e-6 * exact.abs() + 1e-30, "{gate}: {out} {exact}");
            }
        }
    }
}
