//! Who gives blocks back when none are free.
//!
//! The newest sequence of the lowest priority does: it goes back to its place in the line and is computed again later.
//! Results of plans sent before are still delivered. Blocks that are released behind the fence are not there yet but
//! will be, so nobody is preempted for as long as those on their way suffice: else one full pool would, plan after
//! plan, empty itself of everyone. A sequence is never preempted for one of worse rank, hence the best one always
//! advances and every pool that can hold each request alone serves them all.

use crate::block_pool::BlockId;
use crate::planner::Planner;
use crate::scheduler::Scheduler;
use crate::sequence::Standing;
use crate::sequence_table::SequenceKey;

impl Planner<'_> {
    /// A block for `key` to grow by. `None` when it has to wait for blocks that are on their way, or has itself been
    /// preempted.
    pub(crate) fn find_block(&mut self, key: SequenceKey) -> Option<BlockId> {
        loop {
            let scheduler = &mut *self.scheduler;
            if let Some(block) = scheduler.blocks.take(scheduler.clock) {
                return Some(block);
            }
            if scheduler.blocks.num_coming() > self.num_stalled {
                self.num_stalled += 1;
                return None;
            }
            let victim = scheduler.worst_running()?;
            debug_assert!(scheduler.slots.num_tenants() > 1, "a request that fits must be able to run alone");
            scheduler.preempt(victim);
            if victim == key {
                return None;
            }
        }
    }
}

impl Scheduler {
    fn worst_running(&self) -> Option<SequenceKey> {
        self.slots.tenants().max_by_key(|&key| self.sequences[key].rank)
    }

    /// Takes slot and blocks from a running sequence and puts it back into the line.
    pub(crate) fn preempt(&mut self, key: SequenceKey) {
        let sequence = &mut self.sequences[key];
        let Standing::Running(tenancy) = sequence.standing else { return };
        self.slots.vacate(tenancy);
        self.blocks.release(&sequence.blocks, self.clock);
        sequence.preempt();
        self.queue.insert(sequence.rank, key, sequence.request.num_prompt_tokens);
        self.totals.preemptions += 1;
    }
}
