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

#[cfg(test)]
mod tests {
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
