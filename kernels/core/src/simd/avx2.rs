//! Kernels in AVX2, and plain Rust compiled for it; entered only with an [`InstructionSet`] that proves the features.
#![allow(unsafe_code)]

pub(crate) mod attention;
pub(crate) mod float_linear;
pub(crate) mod quantized_linear;

use crate::InstructionSet;

/// Runs `body` compiled with AVX2; see [`InstructionSet::vectorize`].
#[inline]
pub(crate) fn vectorize<R>(set: InstructionSet, body: impl FnOnce() -> R) -> R {
    assert!(set.is_avx2());
    // SAFETY: `set` exists only where the CPU has these features.
    unsafe { with_features(body) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn with_features<R>(body: impl FnOnce() -> R) -> R {
    body()
}
