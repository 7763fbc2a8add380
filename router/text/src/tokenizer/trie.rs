//! Values by strings of bytes, found by all beginnings of a text at once.

use super::pair_map::PairMap;
use super::work;

#[derive(Debug)]
pub(super) struct Trie<V> {
    /// The node behind a node and a byte.
    edges: PairMap<u32>,
    /// What ends at a node.
    values: Vec<Option<V>>,
}

impl<V: Copy> Trie<V> {
    pub(super) fn new() -> Self {
        Self { edges: PairMap::new(), values: vec![None] }
    }

    pub(super) fn insert(&mut self, key: &[u8], value: V) {
        let mut node = 0;
        for &byte in key {
            let new = self.values.len() as u32;
            node = self.edges.get_or_insert((node, byte.into()), new);
            if node == new {
                self.values.push(None);
            }
        }
        self.values[node as usize] = Some(value);
    }

    /// Calls `take` with the length and value of each key that `text` begins with, the shortest first.
    pub(super) fn prefixes(&self, text: &[u8], mut take: impl FnMut(usize, V)) {
        let mut node = 0;
        for (index, &byte) in text.iter().enumerate() {
            work::count(1);
            let Some(next) = self.edges.get((node, byte.into())) else { return };
            node = next;
            if let Some(value) = self.values[node as usize] {
                take(index + 1, value);
            }
        }
    }
}
