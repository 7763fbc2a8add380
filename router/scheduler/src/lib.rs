//! Decides what every step computes, and nothing else: no tokio, no I/O, no clock, no randomness, no logging.
//!
//! The vocabulary: a [`NewRequest`] becomes a *sequence*, which holds *blocks* of KV through its block table and
//! shares a *prefix* of them with others; each [`StepPlan`] is one forward pass over *rows*; a [`StepResult`] brings
//! the sampled tokens back. [`Scheduler`] is the whole public surface.
#![forbid(unsafe_code)]

mod limits;
mod request;
mod scheduler;
mod step;

pub use limits::Limits;
pub use request::{FinishReason, NewRequest, RequestId, RowFlags, SubmitError, Time};
pub use scheduler::{Scheduler, Stats};
pub use step::{
    BlockAppend, Event, NewSequence, ResultError, Row, SampledRow, SequenceError, SequenceRef, StepError, StepPlan,
    StepResult,
};
