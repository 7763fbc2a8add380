//! The one caller of the block pool and the prefix tree: finds prefixes, gives blocks, takes them back.

use crate::block_pool::{BlockId, BlockPool, NULL_BLOCK};
use crate::in_flight::PlanClock;
use crate::limits::Limits;
use crate::prefix_cache::PrefixCache;

/// Pool and tree, kept in step.
#[derive(Debug)]
pub(crate) struct BlockManager {
    pool: BlockPool,
    cache: PrefixCache,
    block_size: usize,
    max_cached_blocks: u32,
    num_evictions: u64,
}

/// What the tree knows of a prompt.
#[derive(Debug, Default)]
pub(crate) struct PrefixMatch {
    /// The blocks that hold its beginning.
    pub(crate) blocks: Vec<BlockId>,
    /// The next block is being written by the very plan in the making, whose rows run side by side: it can be read
    /// from the next plan on.
    pub(crate) continues_in_this_plan: bool,
}

impl BlockManager {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            pool: BlockPool::new(limits.num_blocks),
            cache: PrefixCache::new(limits.num_blocks, limits.block_size),
            block_size: limits.block_size as usize,
            max_cached_blocks: limits.max_cached_blocks,
            num_evictions: 0,
        }
    }

    /// The longest known prefix of `tokens` for the plan `step`. It stops one token short of the end, for the last
    /// token has to be computed to be sampled from.
    pub(crate) fn find_prefix(&self, salt: u64, tokens: &[u32], step: u64) -> PrefixMatch {
        let mut found = PrefixMatch::default();
        let mut parent = NULL_BLOCK;
        for block_tokens in tokens[..tokens.len() - 1].chunks_exact(self.block_size) {
            let Some(block) = self.cache.child(parent, salt, block_tokens) else { break };
            if self.cache.step_of(block) >= step {
                found.continues_in_this_plan = true;
                break;
            }
            found.blocks.push(block);
            parent = block;
        }
        found
    }

    /// Whether `num` blocks can be taken now without evicting any of `spared`.
    pub(crate) fn can_take(&self, num: u32, spared: &[BlockId], clock: PlanClock) -> bool {
        let num_free = self.pool.num_free();
        if num_free >= num {
            return true;
        }
        let num_spared = spared.iter().filter(|&&block| self.cache.is_evictable(block, clock.answered)).count();
        let wanted = (num - num_free) as usize + num_spared;
        self.cache.evictable(clock.answered).take(wanted).count() == wanted
    }

    /// A block for one holder, from the free list or else by evicting the oldest leaf that is past its fence.
    pub(crate) fn take(&mut self, clock: PlanClock) -> Option<BlockId> {
        if let Some(block) = self.pool.take() {
            return Some(block);
        }
        let oldest = self.cache.evictable(clock.answered).next()?;
        self.cache.remove(oldest);
        self.pool.retain(oldest);
        self.num_evictions += 1;
        Some(oldest)
    }

    /// Adds a holder to each of `blocks`.
    pub(crate) fn hold(&mut self, blocks: &[BlockId]) {
        for &block in blocks {
            if self.pool.retain(block) {
                self.cache.unpark(block);
            }
        }
    }

    /// Takes a holder from each block of a table. Cached ones stay in the tree, the others go behind the fence.
    pub(crate) fn release(&mut self, table: &[BlockId], clock: PlanClock) {
        // Deepest first: the order of parking must be children before parents.
        for &block in table.iter().rev() {
            if !self.pool.release(block) {
                continue;
            }
            if self.cache.contains(block) {
                self.cache.park(block, clock.sent);
            } else {
                self.pool.fence(block, clock);
            }
        }
    }

    /// Enters `table[index]`, which step `step` fills with `tokens`' part of that index, below `table[index - 1]`.
    /// False when another block holds that prefix.
    pub(crate) fn publish(&mut self, table: &[BlockId], index: usize, salt: u64, tokens: &[u32], step: u64) -> bool {
        let parent = if index == 0 { NULL_BLOCK } else { table[index - 1] };
        let block_tokens = &tokens[index * self.block_size..(index + 1) * self.block_size];
        self.cache.insert(table[index], parent, salt, block_tokens, step)
    }

    /// Takes blocks that never got their content out of the tree; `tainted` is in order of publication. Whoever holds
    /// one must let go of it.
    pub(crate) fn retract(&mut self, tainted: &[BlockId], clock: PlanClock) {
        for &block in tainted.iter().rev() {
            self.cache.remove(block);
            if self.pool.num_references(block) == 0 {
                self.pool.fence(block, clock);
            }
        }
    }

    /// Whether the tree still holds `block` as `step` published it (it may have been evicted since).
    pub(crate) fn is_published(&self, block: BlockId, step: u64) -> bool {
        self.cache.contains(block) && self.cache.step_of(block) == step
    }

    /// Evicts what is cached beyond the bound and past its fence, oldest first, so that its memory is used again
    /// before any that was never touched.
    pub(crate) fn trim_cache(&mut self, clock: PlanClock) {
        while self.cache.num_parked() > self.max_cached_blocks {
            let Some(oldest) = self.cache.evictable(clock.answered).next() else { break };
            self.cache.remove(oldest);
            self.pool.fence(oldest, clock);
            self.num_evictions += 1;
        }
    }

    pub(crate) fn parent_of(&self, block: BlockId) -> BlockId {
        self.cache.parent_of(block)
    }

    /// A result has come: what was fenced behind it is free.
    pub(crate) fn lift_fence(&mut self, clock: PlanClock) {
        self.pool.lift_fence(clock);
    }

    /// Blocks that nobody holds and that results in flight will free. Only asked when `take` has found nothing, so
    /// every parked block is behind its fence.
    pub(crate) fn num_coming(&self) -> u32 {
        self.pool.num_fenced() + self.cache.num_parked()
    }

    pub(crate) fn num_free(&self) -> u32 {
        self.pool.num_free()
    }

    pub(crate) fn num_fenced(&self) -> u32 {
        self.pool.num_fenced()
    }

    pub(crate) fn num_held(&self) -> u32 {
        self.pool.num_held()
    }

    pub(crate) fn num_cached(&self) -> u32 {
        self.cache.num_parked()
    }

    pub(crate) fn num_evictions(&self) -> u64 {
        self.num_evictions
    }

    /// Recounts everything; `num_holders` is by block, from the sequences' tables.
    pub(crate) fn check(&self, num_holders: &[u32]) {
        let num_blocks = num_holders.len();
        let mut num_idle = vec![0u32; num_blocks];
        for block in self.pool.idle_blocks() {
            num_idle[block as usize] += 1;
        }
        let mut num_held = 0;
        for block in 1..num_blocks as BlockId {
            let holders = num_holders[block as usize];
            assert_eq!(self.pool.num_references(block), holders, "block {block}: references and holders differ");
            num_held += u32::from(holders > 0);
            let is_parked = holders == 0 && self.cache.contains(block);
            let homes = num_idle[block as usize] + u32::from(holders > 0) + u32::from(is_parked);
            assert_eq!(homes, 1, "block {block} must be held, cached or idle, once");
        }
        assert_eq!(num_idle[NULL_BLOCK as usize] + num_holders[NULL_BLOCK as usize], 0, "the null block was given out");
        assert_eq!(num_held, self.num_held());
        let sum = self.num_free() + self.num_fenced() + self.num_cached() + self.num_held();
        assert_eq!(sum as usize, num_blocks - 1, "blocks were lost or made");
        self.cache.check(|block| num_holders[block as usize] > 0);
    }
}
