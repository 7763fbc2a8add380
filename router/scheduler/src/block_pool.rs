//! Hands out KV blocks, lowest number first, counts who holds them, and keeps released ones behind the fence.
//! It has no policy: it knows neither sequences nor prefixes.
//!
//! **The fence**: a block released while step N is the newest plan sent returns to the free list when the result of N
//! (or a later one) has arrived, so that no plan in flight ever reads a block that has a new owner.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::in_flight::PlanClock;

/// Index of a block in the worker's KV pool.
pub(crate) type BlockId = u32;

/// Never given out: padding points at it, and here it stands for "no block".
pub(crate) const NULL_BLOCK: BlockId = 0;

/// Free list, reference counts and fence.
#[derive(Debug)]
pub(crate) struct BlockPool {
    /// Lowest number first, so that resident memory follows use.
    free: BinaryHeap<Reverse<BlockId>>,
    num_references: Vec<u32>,
    /// Blocks with the number of answers that frees them, ascending.
    fenced: VecDeque<(u64, BlockId)>,
    num_held: u32,
}

impl BlockPool {
    pub(crate) fn new(num_blocks: u32) -> Self {
        Self {
            free: (NULL_BLOCK + 1..num_blocks).map(Reverse).collect(),
            num_references: vec![0; num_blocks as usize],
            fenced: VecDeque::new(),
            num_held: 0,
        }
    }

    /// The lowest free block, with one reference.
    pub(crate) fn take(&mut self) -> Option<BlockId> {
        let Reverse(block) = self.free.pop()?;
        debug_assert_eq!(self.num_references[block as usize], 0, "free block {block} has holders");
        self.retain(block);
        Some(block)
    }

    /// Adds a reference; true when it is the first.
    pub(crate) fn retain(&mut self, block: BlockId) -> bool {
        debug_assert_ne!(block, NULL_BLOCK);
        let count = &mut self.num_references[block as usize];
        *count += 1;
        self.num_held += u32::from(*count == 1);
        *count == 1
    }

    /// Drops a reference; true when it was the last. The caller then fences the block or keeps it cached.
    pub(crate) fn release(&mut self, block: BlockId) -> bool {
        let count = &mut self.num_references[block as usize];
        debug_assert!(*count > 0, "block {block} released more often than held");
        *count -= 1;
        self.num_held -= u32::from(*count == 0);
        *count == 0
    }

    /// Gives an unreferenced block back: at once if nothing is in flight, else behind the fence.
    pub(crate) fn fence(&mut self, block: BlockId, clock: PlanClock) {
        debug_assert_eq!(self.num_references[block as usize], 0, "fenced block {block} has holders");
        if clock.num_in_flight() == 0 {
            self.free.push(Reverse(block));
        } else {
            debug_assert!(self.fenced.back().is_none_or(|&(until, _)| until <= clock.sent));
            self.fenced.push_back((clock.sent, block));
        }
    }

    /// Frees what the newest answer has brought past the fence.
    pub(crate) fn lift_fence(&mut self, clock: PlanClock) {
        while let Some(&(until, block)) = self.fenced.front()
            && until <= clock.answered
        {
            self.fenced.pop_front();
            self.free.push(Reverse(block));
        }
    }

    pub(crate) fn num_free(&self) -> u32 {
        self.free.len() as u32
    }

    pub(crate) fn num_fenced(&self) -> u32 {
        self.fenced.len() as u32
    }

    pub(crate) fn num_held(&self) -> u32 {
        self.num_held
    }

    pub(crate) fn num_references(&self, block: BlockId) -> u32 {
        self.num_references[block as usize]
    }

    /// Every block that is free or fenced, for the invariant check.
    pub(crate) fn idle_blocks(&self) -> impl Iterator<Item = BlockId> {
        self.free.iter().map(|&Reverse(block)| block).chain(self.fenced.iter().map(|&(_, block)| block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(sent: u64, answered: u64) -> PlanClock {
        PlanClock { sent, answered }
    }

    #[test]
    fn the_lowest_free_block_is_given_first_and_the_null_block_never() {
        let mut pool = BlockPool::new(4);
        assert_eq!([pool.take(), pool.take(), pool.take(), pool.take()], [Some(1), Some(2), Some(3), None]);
        for block in [3, 1] {
            assert!(pool.release(block));
            pool.fence(block, clock(0, 0));
        }
        assert_eq!(pool.take(), Some(1));
    }

    #[test]
    fn a_block_released_behind_a_plan_is_free_when_that_plan_is_answered() {
        let mut pool = BlockPool::new(2);
        pool.take();
        pool.release(1);
        pool.fence(1, clock(3, 1));
        pool.lift_fence(clock(4, 2));
        assert_eq!((pool.num_free(), pool.num_fenced()), (0, 1));
        pool.lift_fence(clock(4, 3));
        assert_eq!((pool.num_free(), pool.num_fenced()), (1, 0));
    }

    #[test]
    fn a_block_with_two_holders_survives_the_first_release() {
        let mut pool = BlockPool::new(2);
        pool.take();
        assert!(!pool.retain(1));
        assert!(!pool.release(1));
        assert_eq!(pool.num_held(), 1);
        assert!(pool.release(1));
        assert_eq!(pool.num_held(), 0);
    }
}
