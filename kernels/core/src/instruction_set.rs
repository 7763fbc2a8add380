//! Which vector instructions a kernel may use. A value is a proof: it exists only for what the machine has.

use crate::KernelError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Portable,
    Avx2,
    Avx512,
}

/// An instruction set that this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstructionSet(Kind);

impl InstructionSet {
    /// What every machine has: plain Rust, vectorized by the compiler for the build's baseline.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// AVX-512 with VNNI, where the machine has it (Ice Lake, Zen 4 and later).
    pub fn avx512() -> Option<Self> {
        has_avx512().then_some(Self(Kind::Avx512))
    }

    /// AVX2 with FMA and F16C, where the machine has it (Haswell, Zen and later): a kernel for the quantized
    /// product, plain Rust compiled for it otherwise.
    pub fn avx2() -> Option<Self> {
        has_avx2().then_some(Self(Kind::Avx2))
    }

    /// The best that this machine has.
    pub fn best() -> Self {
        Self::avx512().or_else(Self::avx2).unwrap_or(Self::PORTABLE)
    }

    /// All that this machine has, best first.
    pub fn available() -> Vec<Self> {
        Self::avx512().into_iter().chain(Self::avx2()).chain([Self::PORTABLE]).collect()
    }

    /// The set of that name (`avx512`, `avx2`, `portable`), if this machine has it.
    pub fn named(name: &str) -> Result<Self, KernelError> {
        let available = Self::available();
        available.iter().copied().find(|set| set.name() == name).ok_or_else(|| KernelError::InstructionSet {
            name: name.to_owned(),
            available: available.iter().map(|set| format!("`{}`", set.name())).collect::<Vec<_>>().join(", "),
        })
    }

    /// Its name, as [`InstructionSet::named`] takes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            Kind::Avx2 => "avx2",
            Kind::Avx512 => "avx512",
        }
    }

    pub(crate) fn is_avx512(self) -> bool {
        self.0 == Kind::Avx512
    }

    /// Whether it is AVX-512 on a machine that also multiplies bfloat16 (Cooper Lake, Sapphire Rapids, Zen 4 and later).
    pub fn has_avx512_bf16(self) -> bool {
        self.is_avx512() && has_avx512_bf16()
    }

    pub(crate) fn is_avx2(self) -> bool {
        self.0 == Kind::Avx2
    }

    /// Runs `body` compiled for this set: the compiler vectorizes it with the set's registers, provided that all of
    /// `body` is inlined. For ops that are plain loops; results may differ between sets in the order of sums only
    /// where `body` itself leaves the order open (it never does in Rust).
    #[inline]
    pub(crate) fn vectorize<R>(self, body: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        if self.is_avx512() {
            return crate::simd::avx512::vectorize(self, body);
        }
        #[cfg(target_arch = "x86_64")]
        if self.is_avx2() {
            return crate::simd::avx2::vectorize(self, body);
        }
        body()
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512_bf16() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_set_is_found_by_its_name() {
        for set in InstructionSet::available() {
            assert_eq!(InstructionSet::named(set.name()), Ok(set));
        }
    }

    #[test]
    fn an_unknown_set_is_refused_by_name() {
        let error = InstructionSet::named("mmx").unwrap_err();
        assert!(error.to_string().contains("`mmx`") && error.to_string().contains("`portable`"));
    }
}
