//! Undoes steps that failed, whole or for one sequence.
//!
//! **The rule.** When step M fails, its KV is void; its bookkeeping (releases, new sequences, block appends) stands.
//! Plans sent after M were made in the belief that M would succeed, so what they compute from M's KV is void as well.
//! Who is affected follows from what was published and read:
//!
//! 1. The *failed* tenancies: every row of M (or, for an error of one sequence, that one). What they were to write in
//!    M or later leaves the prefix tree with all that hangs below it.
//! 2. The *readers*: every tenancy with rows in flight whose block table holds a block that just left the tree.
//!
//! Both are rolled back: what is in flight for them is dropped, slot and blocks are given back, and they return to
//! their place in the line, from where they are sent again as known tokens under a new epoch. What they had committed
//! is still in the tree and will be found there. Everybody else's results stand. Answers for the old epochs still come
//! (tokens or errors, both are ignored), since the plans in flight name them.
//!
//! A failed step also halves the token budget for a while, for what fails is usually memory. Failures of plans that
//! were sent before it was known say nothing new: a worker may void whatever follows a failed step, until it sees the
//! answer to it. They undo their sequences in the same way, but reduce nothing and count for nothing. A step at the smallest
//! budget cannot be made smaller: sequences that see `MAX_STEP_FAILURES` of those without a good step between end as
//! failed, so that a worker that cannot compute anything does not keep them for ever.

use crate::block_pool::BlockId;
use crate::in_flight::SentPlan;
use crate::request::FinishReason;
use crate::scheduler::Scheduler;
use crate::sequence::{Sequence, Standing};
use crate::sequence_table::SequenceKey;
use crate::step::{Event, SequenceError, SequenceRef, StepError};

const MAX_STEP_FAILURES: u32 = 3;

impl Scheduler {
    /// A whole step failed.
    pub(crate) fn fail_step(&mut self, plan: &SentPlan, error: &StepError, events: &mut Vec<Event>) {
        let is_news = plan.step_id >= self.failure_known_from;
        let is_smallest = is_news && plan.num_tokens() <= self.budget.floor();
        if is_news {
            self.failure_known_from = self.clock.sent;
            self.budget.step_failed(plan.num_tokens());
        }
        let mut failed: Vec<SequenceRef> = plan.rows.iter().map(|row| row.sequence).collect();
        failed.sort_unstable();
        let tainted = self.retract(plan, &failed);
        for key in self.affected(&failed, &tainted) {
            let sequence = &mut self.sequences[key];
            let has_row = sequence.tenancy().is_some_and(|tenancy| failed.binary_search(&tenancy).is_ok());
            sequence.num_step_failures += u32::from(is_smallest && has_row);
            if sequence.num_step_failures >= MAX_STEP_FAILURES {
                let message = format!("the step failed `{MAX_STEP_FAILURES}` times at its smallest: {}", error.message);
                self.finish(key, FinishReason::Failed { kind: 0, message }, events);
            } else {
                self.roll_back(key);
            }
        }
    }

    /// Single sequences failed in an otherwise good step.
    pub(crate) fn fail_sequences(&mut self, plan: &SentPlan, errors: &[SequenceError], events: &mut Vec<Event>) {
        let mut failed: Vec<SequenceRef> = errors.iter().map(|error| error.sequence).collect();
        failed.sort_unstable();
        let tainted = self.retract(plan, &failed);
        let affected = self.affected(&failed, &tainted);
        for key in affected {
            let tenancy = self.sequences[key].tenancy();
            match errors.iter().find(|error| Some(error.sequence) == tenancy) {
                Some(error) => {
                    let reason = FinishReason::Failed { kind: error.kind, message: error.message.clone() };
                    self.finish(key, reason, events);
                }
                None => self.roll_back(key),
            }
        }
    }

    /// Takes out of the tree what the `failed` tenancies were to write in `plan` or later, with all below it.
    /// Returns the blocks, sorted.
    fn retract(&mut self, plan: &SentPlan, failed: &[SequenceRef]) -> Vec<BlockId> {
        // Parents are published before their children, so one pass in that order finds whole subtrees.
        let mut tainted: Vec<BlockId> = Vec::new();
        for plan in std::iter::once(plan).chain(&self.in_flight) {
            for &(block, writer) in &plan.published {
                let is_tainted = failed.binary_search(&writer).is_ok() || {
                    self.blocks.is_published(block, plan.step_id) && tainted.contains(&self.blocks.parent_of(block))
                };
                if is_tainted && self.blocks.is_published(block, plan.step_id) {
                    tainted.push(block);
                }
            }
        }
        self.blocks.retract(&tainted, self.clock);
        tainted.sort_unstable();
        tainted
    }

    /// Tenancies whose results in flight are void, best rank first.
    fn affected(&self, failed: &[SequenceRef], tainted: &[BlockId]) -> Vec<SequenceKey> {
        let reads_tainted = |sequence: &Sequence| {
            sequence.has_rows_in_flight() && sequence.blocks.iter().any(|block| tainted.binary_search(block).is_ok())
        };
        let is_affected = |sequence: &Sequence| {
            let tenancy = sequence.tenancy();
            tenancy.is_some_and(|tenancy| failed.binary_search(&tenancy).is_ok() || reads_tainted(sequence))
        };
        let mut affected: Vec<_> = self.sequences.iter().filter(|(_, sequence)| is_affected(sequence)).collect();
        affected.sort_unstable_by_key(|(_, sequence)| sequence.rank);
        affected.into_iter().map(|(key, _)| key).collect()
    }

    /// Puts a sequence back into the line and forgets what is in flight for it.
    fn roll_back(&mut self, key: SequenceKey) {
        let sequence = &mut self.sequences[key];
        if let Standing::Running(tenancy) = sequence.standing {
            self.slots.vacate(tenancy);
            self.blocks.release(&sequence.blocks, self.clock);
            self.queue.insert(sequence.rank, key, sequence.request.num_prompt_tokens);
        }
        sequence.roll_back();
        self.totals.rollbacks += 1;
    }
}
