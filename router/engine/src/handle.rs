//! The engine's public face: submit a request, read its tokens, drop it to cancel.

use std::time::Duration;

use forebay_wire::SamplingParams;

use crate::error::EngineError;
use crate::group::WorkerGroup;

/// What the operator allows; everything else comes from the workers' handshake.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Plans sent beyond the one whose result is awaited, 0–3; lowered to what the worker allows.
    pub run_ahead: u32,
    /// Requests that may wait.
    pub max_queued: u32,
    /// Prompt tokens that may wait.
    pub max_queued_tokens: u64,
    /// The operator's `--max-total-tokens`, if given.
    pub max_total_tokens: Option<u32>,
    /// Tokens one plan may compute, if the operator bounds it below the worker's own limit.
    pub max_plan_tokens: Option<u32>,
    /// Sequences that may run at once, if the operator bounds it below the worker's own limit.
    pub max_sequences: Option<u32>,
    /// The tokenizer's highest id + 1; a larger one than the model's vocabulary is refused.
    pub tokenizer_vocab_size: u32,
    /// How long the weights may take to load before the start counts as failed.
    pub start_timeout: Duration,
    /// How long a step may take before the group counts as hung.
    pub step_timeout: Duration,
    /// Events that may wait for a slow reader before its request is cancelled.
    pub max_buffered_events: usize,
}

/// What the handshake of rank 0 said, with the limits derived from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerInfo {
    /// `min(flag, max_position_embeddings, (num_blocks − 1) × block_size)`.
    pub max_total_tokens: u32,
    /// Shards.
    pub world_size: u32,
    /// Blocks in the pool.
    pub num_blocks: u32,
    /// Tokens a block.
    pub block_size: u32,
    /// Sequences that may run at once.
    pub max_sequences: u32,
    /// Tokens one plan may compute.
    pub max_plan_tokens: u32,
    /// Plans ahead, as used.
    pub run_ahead: u32,
    /// Size of the model's vocabulary.
    pub vocab_size: u32,
    /// Activations.
    pub dtype: String,
    /// KV cache.
    pub kv_cache_dtype: String,
    /// "cpu", "cuda".
    pub device: String,
    /// Which attention runs.
    pub attention_backend: String,
    /// What this worker can do beyond the base.
    pub features: Vec<String>,
}

/// Whether requests can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// Weights are loading for the first time.
    Starting,
    /// Serving.
    Ready,
    /// The group was lost and is coming back; why.
    Restarting(String),
    /// It will not come back; why.
    Failed(String),
    /// Finishing what runs, taking nothing new.
    Draining,
}

/// One generation to be made.
#[derive(Debug, Clone)]
pub struct EngineRequest {
    /// The prompt.
    pub token_ids: Vec<u32>,
    /// Bound on generated tokens.
    pub max_new_tokens: u32,
    /// Before this many generated tokens no stop id ends it.
    pub min_new_tokens: u32,
    /// Ids that end it.
    pub stop_token_ids: Vec<u32>,
    /// Smaller runs first.
    pub priority: i32,
    /// Time from now until it is given up.
    pub timeout: Option<Duration>,
    /// Only requests of equal salt share prefixes.
    pub cache_salt: u64,
    /// Passed to the worker unopened.
    pub sampling: SamplingParams,
    /// Wants log-probabilities of its tokens (how many alternatives: `sampling.num_top_logprobs`).
    pub logprobs: bool,
    /// Wants log-probabilities of its prompt (`sampling.num_prompt_logprobs`); bypasses the prefix cache.
    pub prompt_logprobs: bool,
}

/// Log-probability of a chosen token and of the best alternatives, best first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenLogprobs {
    /// Of the chosen token.
    pub logprob: f32,
    /// `(token id, log-probability)`.
    pub top: Vec<(u32, f32)>,
}

/// Log-probability of one prompt token given all before it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptLogprob {
    /// Its place in the prompt, ≥ 1.
    pub position: u32,
    /// Its log-probability and the best alternatives.
    pub logprobs: TokenLogprobs,
}

/// What a generation yields, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerationEvent {
    /// It left the line and runs.
    Started {
        /// Prompt tokens found in the prefix tree.
        num_cached_tokens: u32,
        /// Time spent in line.
        queued_for: Duration,
    },
    /// Log-probabilities of some prompt tokens, in position order, before the first token.
    PromptLogprobs(Vec<PromptLogprob>),
    /// A token.
    Token {
        /// Which.
        token_id: u32,
        /// If asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The end: the stream yields nothing after it.
    Finished(forebay_scheduler::FinishReason),
}

/// A handle to the driver loop; cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {}

impl Engine {
    /// Starts the driver loop over a group. Returns at once; [`Engine::state`] tells when it is ready.
    pub fn start(_config: EngineConfig, _group: impl WorkerGroup) -> Self {
        Self {}
    }

    /// Enters a request. An error here is known before any stream begins.
    #[expect(clippy::unused_async, reason = "awaits the driver's answer")]
    pub async fn submit(&self, _request: EngineRequest) -> Result<Generation, EngineError> {
        Err(EngineError::Unavailable("starting".to_owned()))
    }

    /// Whether requests can be served now.
    pub fn state(&self) -> EngineState {
        EngineState::Starting
    }

    /// Resolves when the state is no longer equal to `seen`.
    pub async fn state_changed(&self, _seen: &EngineState) -> EngineState {
        std::future::pending().await
    }

    /// What the workers said; `None` until first ready.
    pub fn worker_info(&self) -> Option<WorkerInfo> {
        None
    }

    /// The scheduler's counts, as of the last step.
    pub fn stats(&self) -> forebay_scheduler::Stats {
        forebay_scheduler::Stats::default()
    }

    /// Takes nothing new, lets what runs finish until `deadline`, ends the rest with an error, then stops the group.
    pub async fn drain(&self, _deadline: Duration) {}
}

/// The tokens of one request as they come. Dropping it cancels the request.
#[derive(Debug)]
pub struct Generation {}

impl Generation {
    /// The next event; `None` after `Finished` or an error.
    #[expect(clippy::unused_async, reason = "awaits the driver's events")]
    pub async fn next(&mut self) -> Option<Result<GenerationEvent, EngineError>> {
        None
    }
}
