//! What has been sent and not yet answered: the clock that fences are measured on, and a record of each plan.

use crate::block_pool::BlockId;
use crate::request::{RequestId, Time};
use crate::sequence_table::SequenceKey;
use crate::step::SequenceRef;
use crate::step_cost::StepLoad;

/// Plans sent and plans answered in this incarnation. Counts, not ids, so that "none yet" needs no special case:
/// step `n` has been answered when `answered > n`, and the next plan is step `sent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PlanClock {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
}

impl PlanClock {
    pub(crate) fn num_in_flight(self) -> u64 {
        self.sent - self.answered
    }
}

/// What the scheduler must remember of a plan until its result comes.
#[derive(Debug)]
pub(crate) struct SentPlan {
    pub(crate) step_id: u64,
    pub(crate) sent_at: Time,
    pub(crate) load: StepLoad,
    pub(crate) rows: Vec<SentRow>,
    /// Prompt blocks that entered the prefix tree on the strength of this plan, parents first, with their writers.
    pub(crate) published: Vec<(BlockId, SequenceRef)>,
}

/// One row of a sent plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SentRow {
    /// Where to look; whether it is still the same tenant is for `sequence` to say.
    pub(crate) key: SequenceKey,
    /// Whose it is, whatever has become of its tenancy.
    pub(crate) id: RequestId,
    pub(crate) sequence: SequenceRef,
    /// Tokens that it yields at most; at least one of them, unless it yields none.
    pub(crate) max_yield: u32,
    pub(crate) num_tokens: u32,
}

impl SentPlan {
    pub(crate) fn num_tokens(&self) -> u32 {
        self.rows.iter().map(|row| row.num_tokens).sum()
    }
}
