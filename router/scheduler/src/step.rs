//! What goes down to a worker group and what comes back: plain data, no wire types.

use crate::request::{FinishReason, RequestId, RowFlags};

/// A sequence as the worker knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceRef {
    /// Index into the worker's table.
    pub slot: u32,
    /// Which tenant of the slot.
    pub epoch: u32,
}

/// One forward pass, whole. Applied in this order: `released`, `new_sequences`, `appends`, `rows`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepPlan {
    /// Counts from 0 in each incarnation.
    pub step_id: u64,
    /// Sequences that are gone.
    pub released: Vec<SequenceRef>,
    /// Sequences that appear.
    pub new_sequences: Vec<NewSequence>,
    /// Blocks newly got by sequences that were there before.
    pub appends: Vec<BlockAppend>,
    /// How many of `rows`, at its front, are decodes.
    pub num_decodes: u32,
    /// Decodes by ascending slot, then prompt chunks.
    pub rows: Vec<Row>,
}

/// A sequence's first appearance (or its return after a preemption).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSequence {
    /// Whose it is; does not cross the wire.
    pub id: RequestId,
    /// Its place in the worker.
    pub sequence: SequenceRef,
    /// All known ids: prompt, then generated.
    pub token_ids: Vec<u32>,
    /// How many of them are prompt.
    pub num_prompt_tokens: u32,
    /// A prefix hit: their KV already lies in the first blocks.
    pub num_computed_tokens: u32,
    /// Its block table.
    pub block_ids: Vec<u32>,
}

/// Blocks added to the end of a block table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockAppend {
    /// Whose table.
    pub slot: u32,
    /// In table order.
    pub block_ids: Vec<u32>,
}

/// What one sequence computes in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Which sequence.
    pub sequence: SequenceRef,
    /// Tokens computed; for a decode 1 and as many drafts as the worker may add.
    pub num_tokens: u32,
    /// The request's flags with `SAMPLES` and `LAST_CHUNK` as they are true of this row.
    pub flags: RowFlags,
}

/// What rank 0 reported of a step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepResult {
    /// Of the plan.
    pub step_id: u64,
    /// One for each row with `SAMPLES`, in row order, absent for sequences in `errors`.
    pub sampled: Vec<SampledRow>,
    /// Sequences that failed alone.
    pub errors: Vec<SequenceError>,
    /// The step as a whole failed: nothing was computed.
    pub step_error: Option<StepError>,
}

/// Tokens a row yielded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampledRow {
    /// Which sequence.
    pub sequence: SequenceRef,
    /// One token, and more where drafts were accepted.
    pub token_ids: Vec<u32>,
}

/// A failure of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceError {
    /// Which sequence.
    pub sequence: SequenceRef,
    /// The wire's `SequenceErrorKind`.
    pub kind: i32,
    /// The worker's words.
    pub message: String,
}

/// A failure of a whole step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepError {
    /// The wire's `StepErrorKind`.
    pub kind: i32,
    /// The worker's words.
    pub message: String,
}

/// What a request learns from `apply`, `next_plan` and `group_lost`, in order; exactly one `Finished` ends it.
/// A cancelled request learns nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was put into a plan for the first time.
    Started {
        /// Whose.
        id: RequestId,
        /// Prompt tokens found in the prefix tree.
        num_cached_tokens: u32,
    },
    /// A token was generated.
    Token {
        /// Whose.
        id: RequestId,
        /// Which token.
        token_id: u32,
        /// Generated tokens so far, this one included.
        num_generated: u32,
        /// Index into the result's flat list of tokens (all `sampled` concatenated): log-probabilities lie there.
        result_index: usize,
    },
    /// It is over.
    Finished {
        /// Whose.
        id: RequestId,
        /// Why.
        reason: FinishReason,
    },
}

/// A result that no right worker can send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultError {
    /// Not the oldest plan in flight.
    StepId {
        /// The oldest plan in flight, if any.
        expected: Option<u64>,
        /// What the result says.
        got: u64,
    },
    /// The sampled rows are not those that the plan asked for.
    Rows {
        /// The step.
        step_id: u64,
        /// What is wrong.
        detail: String,
    },
}

impl std::fmt::Display for ResultError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::StepId { expected: Some(expected), got } => {
                write!(f, "the worker answered step `{got}`, expected `{expected}`")
            }
            Self::StepId { expected: None, got } => {
                write!(f, "the worker answered step `{got}`, no plan is in flight")
            }
            Self::Rows { step_id, detail } => {
                write!(f, "the result of step `{step_id}` is malformed: {detail}")
            }
        }
    }
}

impl std::error::Error for ResultError {}
