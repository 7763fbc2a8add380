//! Seeded randomness, and the one hash that the oracle and the event log are made of.

/// `SplitMix64`: small, good enough, and the same on every machine.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scramble(self.0)
    }

    /// Uniform in `low..=high`.
    pub(crate) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True in so many of a thousand cases.
    pub(crate) fn permille(&mut self, chance: u64) -> bool {
        self.next() % 1_000 < chance
    }

    /// `value` in so many of a thousand cases, else nothing.
    pub(crate) fn sometimes(&mut self, chance: u64, value: u64) -> u64 {
        if self.permille(chance) { value } else { 0 }
    }
}

/// Folds a value into a running hash.
pub(crate) fn mix(hash: u64, value: u64) -> u64 {
    scramble(hash.rotate_left(23) ^ value.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn scramble(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
