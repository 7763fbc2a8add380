//! Functions of 16 floats.

#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

/// `e^x` for `x <= 88`, to about one unit in the last place; below -103 it is zero. NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn exp(x: __m512) -> __m512 {
    // The operand order matters: of a NaN and a number, `max` yields the second.
    let x = _mm512_max_ps(_mm512_set1_ps(-110.0), x);
    let exponent = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first exact in few bits (Cody and Waite), so that the remainder keeps its precision.
    let rest = _mm512_fnmadd_ps(exponent, _mm512_set1_ps(0.693_359_4), x);
    let rest = _mm512_fnmadd_ps(exponent, _mm512_set1_ps(-2.121_944_4e-4), rest);
    let mut sum = _mm512_set1_ps(1.0 / 720.0);
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficient));
    }
    _mm512_scalef_ps(sum, exponent)
}

/// Turns 16 rows of 16 floats into 16 columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: &[__m512; 16]) -> [__m512; 16] {
    let mut pairs = *rows;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    let pd = |v| _mm512_castps_pd(v);
    let mut fours = *rows;
    for i in 0..4 {
        let [a, b, c, d] = [pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]];
        fours[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(a), pd(c)));
        fours[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(a), pd(c)));
        fours[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(b), pd(d)));
        fours[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(b), pd(d)));
    }
    let mut columns = *rows;
    for i in 0..4 {
        let even_low = _mm512_shuffle_f32x4::<0x88>(fours[i], fours[4 + i]);
        let odd_low = _mm512_shuffle_f32x4::<0xdd>(fours[i], fours[4 + i]);
        let even_high = _mm512_shuffle_f32x4::<0x88>(fours[8 + i], fours[12 + i]);
        let odd_high = _mm512_shuffle_f32x4::<0xdd>(fours[8 + i], fours[12 + i]);
        columns[i] = _mm512_shuffle_f32x4::<0x88>(even_low, even_high);
        columns[4 + i] = _mm512_shuffle_f32x4::<0x88>(odd_low, odd_high);
        columns[8 + i] = _mm512_shuffle_f32x4::<0xdd>(even_low, even_high);
        columns[12 + i] = _mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high);
    }
    columns
}
