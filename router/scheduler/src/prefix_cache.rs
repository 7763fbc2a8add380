//! The radix tree of full blocks: which token prefixes have their KV in which blocks.
//!
//! A node is a block: it stands for the tokens in it after all the tokens above it, and nodes live in an array indexed
//! by block id. The first level is keyed by salt as well, so that unequal salts never meet.
//!
//! A block that no sequence holds is *parked* and may be evicted, least recently released first. Whoever holds a node
//! holds all nodes above it, and releases them deepest first; so the order of parking is children before parents, and
//! **the oldest parked node is always a leaf**.

use std::hash::Hasher;

use rustc_hash::{FxHashMap, FxHasher};

use crate::block_pool::{BlockId, NULL_BLOCK};

/// How a node hangs below its parent. The tokens' hash only finds the candidate; the tokens themselves decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Edge {
    /// `NULL_BLOCK` at the first level.
    parent: BlockId,
    /// The request's salt at the first level, 0 below it.
    salt: u64,
    tokens_hash: u64,
}

#[derive(Debug, Clone, Default)]
struct Node {
    edge: Edge,
    is_in_tree: bool,
    is_parked: bool,
    num_children: u32,
    /// The step that writes the block; pending until that step is answered.
    step: u64,
    /// Plans sent when it was parked: its fence.
    parked_at: u64,
    older: BlockId,
    newer: BlockId,
}

/// Tree and eviction order.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    block_size: usize,
    /// By block id. The null block's node is the ring's anchor: its `newer` is the oldest parked node.
    nodes: Vec<Node>,
    /// By block id: `block_size` tokens each.
    tokens: Vec<u32>,
    children: FxHashMap<Edge, BlockId>,
    num_parked: u32,
}

impl PrefixCache {
    pub(crate) fn new(num_blocks: u32, block_size: u32) -> Self {
        Self {
            block_size: block_size as usize,
            nodes: vec![Node::default(); num_blocks as usize],
            tokens: vec![0; num_blocks as usize * block_size as usize],
            children: FxHashMap::default(),
            num_parked: 0,
        }
    }

    /// The block that holds `tokens` below `parent` (`NULL_BLOCK`: the first level, where `salt` separates).
    pub(crate) fn child(&self, parent: BlockId, salt: u64, tokens: &[u32]) -> Option<BlockId> {
        let block = *self.children.get(&edge(parent, salt, tokens))?;
        (self.tokens_of(block) == tokens).then_some(block)
    }

    /// Hangs `block` below `parent`. False when that place is taken: the tree keeps one block a prefix.
    pub(crate) fn insert(&mut self, block: BlockId, parent: BlockId, salt: u64, tokens: &[u32], step: u64) -> bool {
        debug_assert!(!self.nodes[block as usize].is_in_tree, "block {block} is in the tree already");
        debug_assert!(parent == NULL_BLOCK || self.nodes[parent as usize].is_in_tree, "parent {parent} is not there");
        let edge = edge(parent, salt, tokens);
        if self.children.contains_key(&edge) {
            return false;
        }
        self.children.insert(edge, block);
        self.nodes[parent as usize].num_children += 1;
        self.nodes[block as usize] = Node { edge, is_in_tree: true, step, ..Node::default() };
        let start = block as usize * self.block_size;
        self.tokens[start..start + self.block_size].copy_from_slice(tokens);
        true
    }

    /// Takes a leaf out of the tree.
    pub(crate) fn remove(&mut self, block: BlockId) {
        debug_assert!(self.contains(block) && self.nodes[block as usize].num_children == 0, "{block} is no leaf");
        if self.nodes[block as usize].is_parked {
            self.unpark(block);
        }
        let edge = self.nodes[block as usize].edge;
        self.children.remove(&edge);
        self.nodes[edge.parent as usize].num_children -= 1;
        self.nodes[block as usize].is_in_tree = false;
    }

    /// The last holder has let go: the block may be evicted once `parked_at` plans are answered.
    pub(crate) fn park(&mut self, block: BlockId, parked_at: u64) {
        debug_assert!(self.contains(block) && !self.nodes[block as usize].is_parked);
        let newest = self.nodes[NULL_BLOCK as usize].older;
        self.nodes[newest as usize].newer = block;
        self.nodes[NULL_BLOCK as usize].older = block;
        let node = &mut self.nodes[block as usize];
        (node.is_parked, node.parked_at, node.older, node.newer) = (true, parked_at, newest, NULL_BLOCK);
        self.num_parked += 1;
    }

    /// Somebody holds it again.
    pub(crate) fn unpark(&mut self, block: BlockId) {
        let node = &mut self.nodes[block as usize];
        debug_assert!(node.is_parked, "block {block} is not parked");
        node.is_parked = false;
        let (older, newer) = (node.older, node.newer);
        self.nodes[older as usize].newer = newer;
        self.nodes[newer as usize].older = older;
        self.num_parked -= 1;
    }

    /// Parked blocks past their fence, in the order of eviction.
    pub(crate) fn evictable(&self, answered: u64) -> impl Iterator<Item = BlockId> {
        let mut at = NULL_BLOCK;
        std::iter::from_fn(move || {
            at = self.nodes[at as usize].newer;
            // Parked in time order: behind the first one that is fenced, all are.
            (at != NULL_BLOCK && self.nodes[at as usize].parked_at <= answered).then_some(at)
        })
    }

    pub(crate) fn contains(&self, block: BlockId) -> bool {
        self.nodes[block as usize].is_in_tree
    }

    pub(crate) fn is_evictable(&self, block: BlockId, answered: u64) -> bool {
        let node = &self.nodes[block as usize];
        node.is_parked && node.parked_at <= answered
    }

    pub(crate) fn step_of(&self, block: BlockId) -> u64 {
        self.nodes[block as usize].step
    }

    pub(crate) fn parent_of(&self, block: BlockId) -> BlockId {
        self.nodes[block as usize].edge.parent
    }

    pub(crate) fn num_parked(&self) -> u32 {
        self.num_parked
    }

    fn tokens_of(&self, block: BlockId) -> &[u32] {
        let start = block as usize * self.block_size;
        &self.tokens[start..start + self.block_size]
    }

    /// Checks the ring and the tree against each other; `is_held` says whether a sequence holds a block.
    pub(crate) fn check(&self, is_held: impl Fn(BlockId) -> bool) {
        let mut num_children = vec![0u32; self.nodes.len()];
        for (edge, &block) in &self.children {
            let node = &self.nodes[block as usize];
            assert!(node.is_in_tree && node.edge == *edge, "block {block} hangs at the wrong edge");
            assert_eq!(node.is_parked, !is_held(block), "block {block} must be parked iff nobody holds it");
            let parent = edge.parent;
            assert!(parent == NULL_BLOCK || self.contains(parent), "block {block} has lost its parent {parent}");
            assert!(parent == NULL_BLOCK || !is_held(block) || is_held(parent), "held {block} under unheld {parent}");
            num_children[parent as usize] += 1;
        }
        for (block, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.num_children * u32::from(node.is_in_tree || block == 0), num_children[block]);
        }
        self.check_ring();
    }

    fn check_ring(&self) {
        let ring: Vec<BlockId> = self.evictable(u64::MAX).collect();
        assert_eq!(ring.len(), self.num_parked as usize, "the ring and its count disagree");
        assert!(ring.is_sorted_by_key(|&block| self.nodes[block as usize].parked_at), "the ring is out of order");
        if let Some(&oldest) = ring.first() {
            assert_eq!(self.nodes[oldest as usize].num_children, 0, "the oldest parked block {oldest} is no leaf");
        }
    }
}

fn edge(parent: BlockId, salt: u64, tokens: &[u32]) -> Edge {
    let mut hasher = FxHasher::default();
    for &token in tokens {
        hasher.write_u32(token);
    }
    Edge { parent, salt: if parent == NULL_BLOCK { salt } else { 0 }, tokens_hash: hasher.finish() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_found_under_its_own_salt_only() {
        let mut cache = PrefixCache::new(4, 2);
        assert!(cache.insert(1, NULL_BLOCK, 7, &[1, 2], 0));
        assert!(cache.insert(2, 1, 7, &[3, 4], 0));
        assert_eq!(cache.child(NULL_BLOCK, 7, &[1, 2]), Some(1));
        assert_eq!(cache.child(1, 7, &[3, 4]), Some(2));
        assert_eq!(cache.child(NULL_BLOCK, 8, &[1, 2]), None);
        assert_eq!(cache.child(NULL_BLOCK, 7, &[3, 4]), None);
    }

    #[test]
    fn the_tree_keeps_one_block_a_prefix() {
        let mut cache = PrefixCache::new(4, 2);
        assert!(cache.insert(1, NULL_BLOCK, 0, &[1, 2], 0));
        assert!(!cache.insert(2, NULL_BLOCK, 0, &[1, 2], 1));
        assert!(!cache.contains(2));
    }

    #[test]
    fn eviction_order_is_by_release_and_stops_at_the_fence() {
        let mut cache = PrefixCache::new(5, 1);
        for block in 1..5 {
            cache.insert(block, NULL_BLOCK, 0, &[block], 0);
        }
        for (block, parked_at) in [(3, 1), (1, 1), (2, 2), (4, 9)] {
            cache.park(block, parked_at);
        }
        cache.unpark(1);
        assert_eq!(cache.evictable(2).collect::<Vec<_>>(), [3, 2]);
        cache.remove(3);
        assert_eq!(cache.evictable(9).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(cache.num_parked(), 2);
    }
}
