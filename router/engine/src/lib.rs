//! The async shell round the scheduler. Token ids only, never text; `driver.rs` is the one loop.
#![forbid(unsafe_code)]

mod convert;
mod dispatch;
mod driver;
mod error;
#[cfg(feature = "fake-worker")]
pub mod fake_worker;
mod group;
mod handle;
mod handshake;
mod heartbeat;
mod lifecycle;
mod metrics;
mod place;
mod requests;
mod shards;
mod shared;

pub use error::{EngineError, GroupError};
/// How a generation ends, the scheduler's counts and its target; users of the engine need no other of its types.
pub use forebay_scheduler::{FinishReason, Stats, StepTarget};
pub use group::{GroupExit, Life, WorkerGroup};
pub use handle::{
    Engine, EngineConfig, EngineRequest, EngineState, Generation, GenerationEvent, PromptLogprob, TokenLogprobs,
    WorkerInfo,
};
pub use heartbeat::Heartbeat;
