//! Kernels in AVX-512 with VNNI. A function here is entered only with an [`InstructionSet`] that proves the features.
#![allow(unsafe_code)]

pub(crate) mod attention;
pub(crate) mod float_linear;
mod math;
pub(crate) mod quantized_linear;

use crate::InstructionSet;

/// Runs `body` compiled with AVX-512; see [`InstructionSet::vectorize`].
#[inline]
pub(crate) fn vectorize<R>(set: InstructionSet, body: impl FnOnce() -> R) -> R {
    assert!(set.is_avx512());
    // SAFETY: `set` exists only where the CPU has these features.
    unsafe { with_features(body) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
fn with_features<R>(body: impl FnOnce() -> R) -> R {
    body()
}
