//! What can go wrong between a request and its tokens.

use std::time::Duration;

/// Why a generation was not taken, or broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The line is full; come back later.
    #[error("{message}")]
    Overloaded {
        /// Counts and limits.
        message: String,
        /// When room is expected.
        retry_after: Duration,
    },
    /// It can never be served by this model and pool.
    #[error("{0}")]
    Invalid(String),
    /// No worker group is ready (starting, restarting or shut down).
    #[error("the model is not ready: {0}")]
    Unavailable(String),
    /// Its deadline passed.
    #[error("the request's deadline passed")]
    Deadline,
    /// Its reader lagged behind by as many events as may wait, so it was cancelled.
    #[error("the client reads too slowly: `{limit}` events wait, which is the limit; read faster or ask for less")]
    SlowReader {
        /// `EngineConfig::max_buffered_events`.
        limit: usize,
    },
    /// It was the only suspect each time the worker group died.
    #[error("the request was given up: the worker group died `{num_deaths}` times while it computed this one alone")]
    Quarantined {
        /// Those deaths.
        num_deaths: u32,
    },
    /// The worker group was lost, and it could not be taken up again.
    #[error("the worker group was lost: {0}")]
    GroupLost(String),
    /// The worker reported an error of this sequence alone.
    #[error("{message}")]
    Sequence {
        /// The wire's `SequenceErrorKind`.
        kind: i32,
        /// The worker's words.
        message: String,
    },
}

/// Why a worker group could not start, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// A worker did not come up.
    #[error("{0}")]
    Start(String),
    /// Workers contradict each other or the router.
    #[error("the workers' handshake is refused: {0}")]
    Handshake(String),
    /// A stream broke, a deadline passed or a result was malformed.
    #[error("{0}")]
    Lost(String),
}
