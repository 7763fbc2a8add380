//! Elementary functions as straight-line code, so that loops over them vectorize under any instruction set, with
//! bit-equal results: nothing here is fused or reordered.

/// Adding this to a float32 of magnitude below 2^22 rounds it to an integer (to nearest even) in its low bits.
pub(crate) const ROUNDING: f32 = 12_582_912.0;

/// `e^x` to about two units in the last place for `x` in `[-87, 88]`; `e^-87`, about 1e-38, below. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUNDING;
    let exponent = shifted - ROUNDING;
    // ln 2 in two parts, the first exact in few bits (Cody and Waite), so that the remainder keeps its precision.
    let rest = (x - exponent * 0.693_359_4) - exponent * -2.121_944_4e-4;
    let mut sum = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * rest + coefficient;
    }
    let power = shifted.to_bits().wrapping_sub(ROUNDING.to_bits()).wrapping_add(127) << 23;
    sum * f32::from_bits(power)
}

/// `tanh(x)` to about three units in the last place. NaN stays NaN.
///
/// Near zero a polynomial, where `1 - 2 / (e^2x + 1)` would cancel. Source: Cephes, `tanhf`.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let (square, magnitude) = (x * x, x.abs());
    let mut sum = -5.704_988_7e-3;
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        sum = sum * square + coefficient;
    }
    let near = x + x * square * sum;
    // tanh(9.1) is 1 in float32.
    let bounded = if magnitude > 9.1 { 9.1 } else { magnitude };
    let far = (1.0 - 2.0 / (exp(2.0 * bounded) + 1.0)).copysign(x);
    if magnitude < 0.625 { near } else { far }
}

/// `erf(x)` to about two units in the last place. NaN stays NaN.
///
/// Near zero a polynomial; beyond, one minus the exponential of another. Coefficients: N. Juffa's
/// published minimax fit.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let (square, magnitude) = (x * x, x.abs());
    let mut near = -5.967_617e-4;
    for coefficient in [4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1] {
        near = near * square + coefficient;
    }
    // erf(4) is 1 in float32.
    let bounded = if magnitude > 4.0 { 4.0 } else { magnitude };
    let mut far = -1.728_534_7e-5;
    for coefficient in
        [3.831_971_3e-4, -3.883_964_4e-3, 2.425_462_2e-2, -1.067_778_8e-1, -6.348_467e-1, -1.287_175_1e-1, 0.0]
    {
        far = far * bounded + coefficient;
    }
    let far = (1.0 - exp(far - bounded)).copysign(x);
    if magnitude < 0.927_734_4 { near * x + x } else { far }
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_has_its_known_values_and_keeps_sign_and_nan() {
        // Abramowitz and Stegun, table 7.1.
        let known = [(0.0, 0.0), (0.1, 0.112_462_92), (0.5, 0.520_499_88), (0.92, 0.806_767_72), (0.94, 0.816_271_02)];
        for (x, value) in known.into_iter().chain([(1.0, 0.842_700_79), (1.5, 0.966_105_15), (2.0, 0.995_322_27)]) {
            for sign in [1.0, -1.0] {
                let error = (f64::from(super::erf(sign * x as f32)) - f64::from(sign) * value).abs();
                assert!(error <= 1.5e-7 * (1.0 + value), "{x}: {error}");
            }
        }
        assert!(super::erf(f32::NAN).is_nan());
        let ends = [f32::NEG_INFINITY, -1e30, 1e30].map(|x| super::erf(x).to_bits());
        assert_eq!(ends, [-1.0f32, -1.0, 1.0].map(f32::to_bits));
    }

    #[test]
    fn tanh_is_within_four_units_in_the_last_place_and_keeps_sign_and_nan() {
        for i in -4000..=4000 {
            let x = i as f32 * 0.003;
            let exact = f64::from(x).tanh();
            let error = (f64::from(super::tanh(x)) - exact).abs();
            assert!(error <= 5e-7 * exact.abs(), "{x}: {error}");
        }
        assert!(super::tanh(f32::NAN).is_nan());
        let ends = [f32::NEG_INFINITY, -1e30, 1e30].map(|x| super::tanh(x).to_bits());
        assert_eq!(ends, [-1.0f32, -1.0, 1.0].map(f32::to_bits));
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -870..=880 {
            let x = i as f32 * 0.1;
            let exact = f64::from(x).exp();
            let error = (f64::from(super::exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "{x}: {error}");
        }
        assert!(super::exp(f32::NAN).is_nan());
        assert!(super::exp(f32::NEG_INFINITY) < 1e-37);
    }
}
