//! What stops a benchmark before it measures. What goes wrong with single requests is counted, in `record.rs`.

use std::io;
use std::path::PathBuf;

/// Each variant names the culprit.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The address is no URL that can be asked.
    #[error("`{url}` cannot be asked: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A goal is not one.
    #[error("`{goal}` is no goal: {reason}; give `METRIC:MILLISECONDS` with ttft, itl, tpot or e2e, as in `ttft:500`")]
    Goal {
        /// As given.
        goal: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file of prompts is not understood.
    #[error("`{}`, {place}: {reason}", path.display())]
    Dataset {
        /// Which file.
        path: PathBuf,
        /// Which line or entry.
        place: String,
        /// What is wrong there.
        reason: String,
    },
    /// The API has no such option.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The server's models could not be had.
    #[error("the server names no model: {0}; name one with `--model`")]
    Model(String),
    /// No requests could be sent at all.
    #[error("{what}: {error}")]
    System {
        /// What failed.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

impl BenchError {
    /// Whether what was asked for is at fault, not what was met.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Model(_) | Self::System { .. })
    }
}
