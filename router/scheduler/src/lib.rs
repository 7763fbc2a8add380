//! Decides what every step computes, and nothing else: no tokio, no I/O, no clock, no randomness, no logging.
//!
//! The vocabulary: a [`NewRequest`] becomes a *sequence*, which holds *blocks* of KV through its block table and
//! shares a *prefix* of them with others; each [`StepPlan`] is one forward pass over *rows*; a [`StepResult`] brings
//! the sampled tokens back. [`Scheduler`] is the whole public surface.
#![forbid(unsafe_code)]

mod block_manager;
mod block_pool;
mod chunk_budget;
mod in_flight;
mod invariants;
mod limits;
mod planner;
mod preemption;
mod prefix_cache;
mod quarantine;
mod queue;
mod recovery;
mod request;
mod results;
mod resumption;
mod scheduler;
mod sequence;
mod sequence_table;
mod slots;
mod step;
mod step_cost;
mod token_budget;

pub use limits::{Limits, StepTarget};
pub use request::{FinishReason, NewRequest, RequestId, RowFlags, SubmitError, Time};
pub use resumption::Evacuee;
pub use scheduler::{Scheduler, Stats};
pub use step::{
    BlockAppend, Event, NewSequence, ResultError, Row, SampledRow, SequenceError, SequenceRef, StepError, StepPlan,
    StepResult,
};
