//! Activations of a feed-forward layer, alone or as the gate of another half.

use crate::elementary::{erf, exp, tanh};
use crate::threads::{SharedOutput, parallel_for, run_length, threads_for};
use crate::{Float, InstructionSet, KernelError, Rows};
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// Which function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x * (1 + erf(x / sqrt 2)) / 2`. Source: arXiv 1606.08415.
    Gelu,
    /// The same with `erf` approximated by `tanh`: what `transformers` calls `gelu_pytorch_tanh` and `gelu_new`.
    GeluTanh,
}

impl Activation {
    /// The activation of that name: `silu`, `gelu` or `gelu_tanh`.
    pub fn named(name: &str) -> Result<Self, KernelError> {
        match name {
            "silu" => Ok(Self::Silu),
            "gelu" => Ok(Self::Gelu),
            "gelu_tanh" => Ok(Self::GeluTanh),
            _ => Err(KernelError::Value {
                name: "kind",
                got: name.to_owned(),
                expected: "`silu`, `gelu` or `gelu_tanh`".to_owned(),
            }),
        }
    }
}

/// `out[t, i] = activation(x[t, i])`; float32 inside, `out` contiguous of x's shape.
pub fn activation<T: Float>(
    x: Rows<'_, T>,
    kind: Activation,
    out: &mut [T],
    set: InstructionSet,
) -> Result<(), KernelError> {
    dispatch(x, x.row_length(), kind, out, set)
}

/// `out[t, i] = activation(x[t, i]) * x[t, I + i]`; `x` has rows of `2 I`, gate first.
///
/// float32 inside. `out` is contiguous `[x.num_rows(), I]`. Source: arXiv 2002.05202.
pub fn gated_activation<T: Float>(
    x: Rows<'_, T>,
    kind: Activation,
    out: &mut [T],
    set: InstructionSet,
) -> Result<(), KernelError> {
    let width = x.row_length() / 2;
    if !x.row_length().is_multiple_of(2) {
        return Err(KernelError::RowLength { name: "gate_up", expected: 2 * width + 2, got: x.row_length() });
    }
    dispatch(x, width, kind, out, set)
}

/// Once a call, so that no loop branches on the kind.
fn dispatch<T: Float>(
    x: Rows<'_, T>,
    width: usize,
    kind: Activation,
    out: &mut [T],
    set: InstructionSet,
) -> Result<(), KernelError> {
    match kind {
        Activation::Silu => activate(x, width, silu, out, set),
        Activation::Gelu => activate(x, width, gelu, out, set),
        Activation::GeluTanh => activate(x, width, gelu_tanh, out, set),
    }
}

/// Applies the function to the first `width` elements of each row, and multiplies with the rest, if there is any.
fn activate<T: Float>(
    x: Rows<'_, T>,
    width: usize,
    function: impl Fn(f32) -> f32 + Sync,
    out: &mut [T],
    set: InstructionSet,
) -> Result<(), KernelError> {
    let num_rows = x.num_rows();
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
                    if up.is_empty() {
                        for (out, x) in out.iter_mut().zip(gate) {
                            *out = T::from_f32(function(x.to_f32()));
                        }
                    } else {
                        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                            *out = T::from_f32(function(gate.to_f32()) * up.to_f32());
                        }
                    }
                },
            );
        }
    });
    Ok(())
}

#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    // e^88 is the last that `exp` can do; beyond, silu is below 1e-36. A NaN is not above 88 and stays.
    let negated = if -x > 88.0 { 88.0 } else { -x };
    x / (1.0 + exp(negated))
}

#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (x + 0.044_715 * x * x * x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its Taylor series in float64: enough for arguments up to 5, beyond which it is 1.
    fn erf(x: f64) -> f64 {
        if x.abs() > 5.0 {
            return x.signum();
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn exact(kind: Activation, x: f64) -> f64 {
        match kind {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
        }
    }

    #[test]
    fn every_kind_matches_float64_over_its_whole_range() {
        let gates: Vec<f32> = (-1000..=1000).map(|i| i as f32 * 0.11).chain([1e-20, -0.3]).collect();
        let row: Vec<f32> = gates.iter().copied().chain(gates.iter().map(|_| 2.0)).collect();
        // silu keeps small results' digits; the others subtract from one, which leaves an absolute error.
        for (kind, absolute) in [(Activation::Silu, 1e-30), (Activation::Gelu, 6e-7), (Activation::GeluTanh, 6e-7)] {
            for set in InstructionSet::available() {
                let (mut gated, mut plain) = (vec![0.0; gates.len()], vec![0.0; gates.len()]);
                gated_activation(Rows::contiguous(&row, row.len()), kind, &mut gated, set).unwrap();
                activation(Rows::contiguous(&gates, gates.len()), kind, &mut plain, set).unwrap();
                for ((gate, gated), plain) in gates.iter().zip(gated).zip(plain) {
                    let exact = exact(kind, f64::from(*gate));
                    let error = (f64::from(plain) - exact).abs();
                    assert!(error <= 1e-6 * exact.abs() + absolute, "{kind:?} {gate}: {plain} {exact}");
                    assert!(gated.to_bits() == (2.0 * plain).to_bits(), "{kind:?} {gate}: {gated} {plain}");
                }
            }
        }
    }

    #[test]
    fn an_unknown_kind_is_refused_by_name() {
        assert!(Activation::named("relu").unwrap_err().to_string().contains("`relu`"));
    }
}
