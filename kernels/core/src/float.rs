//! The element types of activations and caches: float32, float16, bfloat16; all arithmetic is float32.

use half::{bf16, f16};

/// Which float type a [`Float`] is, for kernels that load whole vectors of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatKind {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

/// A storage type for real numbers that converts to and from float32 (rounding to nearest even).
pub trait Float: Copy + Send + Sync + 'static {
    /// Which one this is.
    const KIND: FloatKind;
    /// Widens; exact.
    fn to_f32(self) -> f32;
    /// Narrows, rounding to nearest even.
    fn from_f32(value: f32) -> Self;
}

impl Float for f32 {
    const KIND: FloatKind = FloatKind::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Float for f16 {
    const KIND: FloatKind = FloatKind::F16;
    #[inline]
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
    #[inline]
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Float for bf16 {
    const KIND: FloatKind = FloatKind::Bf16;
    // Not `half`'s own conversions: they branch on NaN and so do not vectorize.
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        Self::from_bits(if value.is_nan() { 0x7fc0 } else { rounded as u16 })
    }
}
