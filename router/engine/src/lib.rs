//! The async shell round the scheduler. Token ids only, never text; `driver.rs` is the one loop.
#![forbid(unsafe_code)]

mod error;
mod group;
mod handle;

pub use error::{EngineError, GroupError};
pub use group::{GroupExit, WorkerGroup};
pub use handle::{
    Engine, EngineConfig, EngineRequest, EngineState, Generation, GenerationEvent, PromptLogprob, TokenLogprobs,
    WorkerInfo,
};
