//! The whole public surface of the crate.

use crate::limits::Limits;
use crate::request::{NewRequest, RequestId, SubmitError, Time};
use crate::step::{Event, ResultError, StepPlan, StepResult};

/// Queue, blocks, prefix tree and what is in flight.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
}

/// A picture of the scheduler for metrics and tests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Requests that wait for a slot.
    pub queued: u32,
    /// Prompt tokens that wait.
    pub queued_tokens: u64,
    /// Sequences that hold a slot.
    pub running: u32,
    /// Blocks referenced by sequences.
    pub blocks_held: u32,
    /// Blocks that only the prefix tree holds.
    pub blocks_cached: u32,
    /// Blocks on the free list.
    pub blocks_free: u32,
    /// Blocks released and not yet past the fence.
    pub blocks_fenced: u32,
    /// Plans sent and not answered.
    pub plans_in_flight: u32,
    /// Preemptions since the start.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix tree since the start.
    pub prefix_queried_tokens: u64,
    /// Of those, found.
    pub prefix_hit_tokens: u64,
}

impl Scheduler {
    /// An empty scheduler over an empty pool.
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }

    /// The bounds it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Puts a request into the line.
    pub fn submit(&mut self, _request: NewRequest, _now: Time) -> Result<(), SubmitError> {
        Ok(())
    }

    /// Ends a request in whatever state it is; no further events come of it. Unknown ids are ignored.
    pub fn cancel(&mut self, _id: RequestId) {}

    /// The next step, or `None` when there is nothing to compute or `run_ahead + 1` plans are in flight.
    /// A returned plan counts as sent. Events (deadlines, starts) are pushed to `events`.
    pub fn next_plan(&mut self, _now: Time, _events: &mut Vec<Event>) -> Option<StepPlan> {
        None
    }

    /// Takes the result of the oldest plan in flight and pushes what requests learn from it.
    /// An error is the worker's bug (a step out of order, a row never planned): the caller must tear the group down.
    pub fn apply(&mut self, _result: &StepResult, _now: Time, _events: &mut Vec<Event>) -> Result<(), ResultError> {
        Ok(())
    }

    /// The group died: every request that had started ends with `GroupLost`, those still in line stay there; pool and
    /// tree are empty, `step_id` is 0 again.
    pub fn group_lost(&mut self, _now: Time, _events: &mut Vec<Event>) {}

    /// When the earliest deadline passes, for the caller's timer.
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// Counts now.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
