//! A load generator for any server that streams OpenAI's or TGI's events: `forebay bench`.
//!
//! It is a client: nothing of the server's is linked in, so that it measures others with the same code. One thread does
//! all of it, and how far that thread falls behind is measured and shown beside every figure.
#![forbid(unsafe_code)]

mod arrivals;
mod body;
mod client;
mod dataset;
mod error;
mod events;
mod lag;
mod live;
mod plot;
mod random;
mod record;
mod report;
mod run;
mod settings;
mod statistics;
mod table;

pub use error::BenchError;
pub use live::Progress;
pub use plot::svg;
pub use report::{Distribution, FailureClass, Failures, Generator, Goodput, Report, Run, Throughput, Tokens};
pub use run::run;
pub use settings::{Api, Arrivals, DEFAULT_OUTPUT_TOKENS, Goal, Load, Metric, Prompts, Settings, Stop, Target};
pub use table::render;
