//! A request as it is submitted, and how it ends.

use std::fmt;

/// Names a request for its whole life; the caller's counter, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Microseconds on the caller's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub u64);

/// The bits of `forebay.worker.v1.RowFlag` that a request carries; copied to its rows, never interpreted.
/// `SAMPLES` and `LAST_CHUNK` are the scheduler's own and are added per row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowFlags(pub u32);

impl RowFlags {
    /// The row yields a token.
    pub const SAMPLES: u32 = 1;
    /// The last known token is in this row.
    pub const LAST_CHUNK: u32 = 2;
}

/// What one generation asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRequest {
    /// Its name.
    pub id: RequestId,
    /// The prompt; longer than `num_prompt_tokens` when a generation is taken up again.
    pub token_ids: Vec<u32>,
    /// How many of `token_ids` are prompt.
    pub num_prompt_tokens: u32,
    /// Bound on generated tokens, those already in `token_ids` included.
    pub max_new_tokens: u32,
    /// No stop id among its first so many generated tokens ends it.
    pub min_new_tokens: u32,
    /// Ids that end it, sorted. Empty: only the length does.
    pub stop_token_ids: Vec<u32>,
    /// Smaller runs first and is preempted last; 0 is usual.
    pub priority: i32,
    /// If still waiting or running then, it ends with [`FinishReason::Deadline`].
    pub deadline: Option<Time>,
    /// Separates prefix sharing: only equal salts share.
    pub cache_salt: u64,
    /// Copied to every row.
    pub row_flags: RowFlags,
    /// False where the whole prompt must be computed (prompt log-probabilities, pooled output).
    pub reuse_prefix: bool,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitError {
    /// The line is full.
    QueueFull {
        /// Requests waiting.
        queued: u32,
        /// The bound that was met.
        limit: u32,
        /// When room is expected, from the drain rate.
        retry_after_ms: u64,
    },
    /// The line holds too many prompt tokens.
    QueueTokensFull {
        /// Prompt tokens waiting.
        queued_tokens: u64,
        /// The bound that was met.
        limit: u64,
        /// When room is expected, from the drain rate.
        retry_after_ms: u64,
    },
    /// No pool of this size can ever hold it.
    NeverFits {
        /// Blocks it may need.
        needed_blocks: u64,
        /// Blocks there are.
        available_blocks: u32,
    },
    /// Longer than `max_total_tokens`.
    TooLong {
        /// Prompt and generated tokens asked for.
        tokens: u64,
        /// The bound.
        limit: u32,
    },
    /// Nothing to compute or nothing to generate.
    Empty,
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull { queued, limit, .. } => {
                write!(f, "the queue is full: {queued} requests wait, the limit is {limit}")
            }
            Self::QueueTokensFull { queued_tokens, limit, .. } => {
                write!(f, "the queue is full: {queued_tokens} prompt tokens wait, the limit is {limit}")
            }
            Self::NeverFits { needed_blocks, available_blocks } => {
                write!(f, "the request needs {needed_blocks} KV blocks, the pool has {available_blocks}")
            }
            Self::TooLong { tokens, limit } => {
                write!(f, "the request may reach {tokens} tokens, the limit is {limit}")
            }
            Self::Empty => write!(f, "a request needs at least one prompt token and one token to generate"),
        }
    }
}

impl std::error::Error for SubmitError {}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// It sampled one of its stop ids (delivered as its last token).
    StopToken(u32),
    /// It reached `max_new_tokens`.
    Length,
    /// Its deadline passed.
    Deadline,
    /// The worker reported an error of this sequence alone.
    Failed {
        /// The wire's `SequenceErrorKind`.
        kind: i32,
        /// The worker's words.
        message: String,
    },
    /// Its worker group died as many times in a row while it was the only suspect.
    Quarantined {
        /// Those deaths; the first, which made it a suspect, is not among them.
        num_deaths: u32,
    },
    /// The worker group came back with limits that it does not fit.
    NoLongerFits(SubmitError),
}
