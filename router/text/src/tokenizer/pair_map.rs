//! A map from pairs of numbers, such as two tokens that a merge joins, or a node of a trie and a byte.
//!
//! One look-up a byte or more decides how fast text is encoded, so a key is hashed by one multiplication. The seed is
//! the process's own: no vocabulary can be written in which many pairs collide.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Values by pairs.
#[derive(Debug)]
pub(super) struct PairMap<V>(HashMap<u64, V, Seed>);

impl<V: Copy> PairMap<V> {
    pub(super) fn new() -> Self {
        Self(HashMap::with_hasher(Seed(RandomState::new().hash_one(0))))
    }

    pub(super) fn get(&self, pair: (u32, u32)) -> Option<V> {
        self.0.get(&key(pair)).copied()
    }

    /// The value of this pair, which is `value` unless there was one before.
    pub(super) fn get_or_insert(&mut self, pair: (u32, u32), value: V) -> V {
        *self.0.entry(key(pair)).or_insert(value)
    }
}

fn key((left, right): (u32, u32)) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[derive(Debug, Clone, Copy)]
struct Seed(u64);

#[derive(Debug)]
struct PairHasher(u64);

impl BuildHasher for Seed {
    type Hasher = PairHasher;

    fn build_hasher(&self) -> PairHasher {
        PairHasher(self.0)
    }
}

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, value: u64) {
        const ODD: u128 = 0x9E37_79B9_7F4A_7C15;
        let product = u128::from(self.0 ^ value) * ODD;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
