//! The hash-chain model. What a position writes into KV depends on its token and on everything that it reads below
//! it; the sampled token depends on all of that. So a wrong, stale, stolen or shifted block changes the text from
//! there on, and comparing with a run of the request alone proves that none was.

use super::rng::mix;

/// The running hash over a sequence's KV.
#[derive(Clone, Copy)]
pub(crate) struct Chain(u64);

impl Chain {
    /// Nothing read yet. The salt is in it so that a block shared across salts shows.
    pub(crate) fn new(salt: u64) -> Self {
        Self(mix(0x5EED, salt))
    }

    /// What `token` at `position` writes, having read what this chain has read.
    pub(crate) fn write(self, token: u32, position: usize) -> u64 {
        mix(mix(self.0, u64::from(token)), position as u64)
    }

    /// Reads the next position's KV.
    pub(crate) fn read(&mut self, kv: u64) {
        self.0 = mix(self.0, kv);
    }

    /// Computes a token without blocks, as the sequential reference does.
    pub(crate) fn compute(&mut self, token: u32, position: usize) {
        self.read(self.write(token, position));
    }

    /// The token that follows.
    pub(crate) fn sample(self, vocab_size: u64) -> u32 {
        (mix(self.0, 0xF00D) % vocab_size) as u32
    }
}
