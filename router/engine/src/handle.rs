//! The engine's public face: submit a request, read its tokens, drop it to cancel.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use forebay_scheduler::{RequestId, Stats, StepTarget};
use forebay_wire::SamplingParams;
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument, Span};

use crate::dispatch::choose;
use crate::driver::Driver;
use crate::error::EngineError;
use crate::group::WorkerGroup;
use crate::heartbeat::Heartbeat;
use crate::place::{GroupHandle, Moved, Peers, Place};
use crate::requests::{Delivery, Submission};
use crate::shared::{GroupReport, Shared, all_started, combined};

/// What the operator allows; everything else comes from the workers' handshake.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Plans sent beyond the one whose result is awaited, 0–3; lowered to what the worker allows.
    pub run_ahead: u32,
    /// How long a step with decodes may become for prompts.
    pub step_target: StepTarget,
    /// Requests that may wait.
    pub max_queued: u32,
    /// Prompt tokens that may wait.
    pub max_queued_tokens: u64,
    /// Tokens that stay in the prefix tree while no request uses them; as many as fit if absent.
    pub max_cached_tokens: Option<u32>,
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
    /// How long a lost group may go on failing to serve before it is given up.
    pub restart_timeout: Duration,
    /// How long a step may take before the group counts as hung.
    pub step_timeout: Duration,
    /// How a group that hangs without a step is seen.
    pub heartbeat: Heartbeat,
    /// Events that may wait for a slow reader before its request is cancelled.
    pub max_buffered_events: usize,
    /// Whether prompts reuse the blocks of equal beginnings and leave theirs for others.
    pub prefix_caching: bool,
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
    /// No stop id among its first so many generated tokens ends it.
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
    /// 1 and as many tokens as are more likely.
    pub rank: u32,
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
        /// When the result that it is of was read off the worker's stream.
        received: Instant,
    },
    /// The end: the stream yields nothing after it.
    Finished(forebay_scheduler::FinishReason),
}

/// A handle to the driver loops, one a worker group; cheap to clone. When the last handle and the last [`Generation`]
/// are gone, the drivers kill their groups and end.
#[derive(Debug, Clone)]
pub struct Engine {
    groups: Arc<[Arc<GroupHandle>]>,
    shared: Arc<Shared>,
    next_id: Arc<AtomicU64>,
    max_buffered_events: usize,
}

/// What the handles ask of a driver. The channel has no bound of its own: each request has at most three commands in
/// it, and what a request costs is bounded by the scheduler's queue and, before that, by the number of callers.
#[derive(Debug)]
pub(crate) enum Command {
    Probe {
        token_ids: Arc<[u32]>,
        cache_salt: u64,
        reply: oneshot::Sender<u32>,
    },
    Submit {
        submission: Box<Submission>,
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
    /// A request of a group that was given up.
    Adopt(Box<Moved>),
    Cancel(RequestId),
    Drain {
        deadline: Duration,
        done: oneshot::Sender<()>,
    },
}

impl Engine {
    /// Starts the driver loop over a group. Returns at once; [`Engine::state`] tells when it is ready.
    /// Must be called within a tokio runtime, after the metrics recorder is installed.
    pub fn start(config: EngineConfig, group: impl WorkerGroup) -> Self {
        Self::start_replicas([(config, group)])
    }

    /// The same over several groups that hold the same model, with a scheduler each.
    pub fn start_replicas<G: WorkerGroup>(replicas: impl IntoIterator<Item = (EngineConfig, G)>) -> Self {
        let replicas: Vec<_> = replicas.into_iter().collect();
        let shared = Arc::new(Shared::new(replicas.len()));
        let max_buffered_events =
            replicas.iter().map(|(config, _)| config.max_buffered_events).min().unwrap_or(0).max(1);
        let is_alone = replicas.len() == 1;
        let (senders, receivers): (Vec<_>, Vec<_>) = replicas.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let groups: Arc<[_]> = senders.into_iter().map(|commands| Arc::new(GroupHandle::new(commands))).collect();
        for (replica, ((config, group), commands)) in replicas.into_iter().zip(receivers).enumerate() {
            let report = GroupReport::new(Arc::clone(&shared), replica);
            let driver = Driver::new(config, report.clone(), Peers::new(&groups, replica), commands);
            let span = if is_alone { Span::none() } else { tracing::info_span!("group", replica) };
            tokio::spawn(crate::lifecycle::run(group, driver, report).instrument(span));
        }
        Self { groups, shared, next_id: Arc::default(), max_buffered_events }
    }

    /// Enters a request. An error here is known before any stream begins.
    pub async fn submit(&self, request: EngineRequest) -> Result<Generation, EngineError> {
        self.check(&request)?;
        let place = choose(&self.groups, &self.shared.group_states(), &request).await;
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        // One place more than events may wait: the end of the stream always fits.
        let (sender, events) = mpsc::channel(self.max_buffered_events + 1);
        let (reply, answer) = oneshot::channel();
        let submission = Box::new(Submission { id, request, events: sender, place: Arc::downgrade(&place) });
        place.send(Command::Submit { submission, reply }).map_err(|_| self.gone())?;
        // From here on the driver may hold it: dropping this future must cancel it.
        let mut generation = Generation { id, events, place, ended: false };
        let answer = answer.await.unwrap_or_else(|_| Err(self.gone()));
        generation.ended = answer.is_err();
        answer.map(|()| generation)
    }

    /// Whether requests can be served now: the best of the groups' states, or that it drains.
    pub fn state(&self) -> EngineState {
        self.shared.state()
    }

    /// Resolves when the state is no longer equal to `seen`.
    pub async fn state_changed(&self, seen: &EngineState) -> EngineState {
        self.shared.wait_for(|states| Some(combined(states)).filter(|state| *state != seen).cloned()).await
    }

    /// Resolves when every group is through its first start; an error says why one of them failed.
    pub async fn all_started(&self) -> Result<(), String> {
        self.shared.wait_for(all_started).await
    }

    /// What the workers said, of the group with the least room if there are several; `None` until first ready.
    pub fn worker_info(&self) -> Option<WorkerInfo> {
        self.shared.with_worker_info(|info| info.map(ToOwned::to_owned))
    }

    /// The schedulers' counts, as of their last steps, summed.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Takes nothing new, lets what runs finish until `deadline`, ends the rest with an error, then stops the groups.
    /// Goes on when the future is dropped.
    pub async fn drain(&self, deadline: Duration) {
        let drained = self.groups.iter().filter_map(|group| {
            let (done, drained) = oneshot::channel();
            // A driver that is gone has nothing left to drain.
            group.send(Command::Drain { deadline, done }).ok().map(|()| drained)
        });
        join_all(drained.collect::<Vec<_>>()).await;
    }

    /// What can be refused without the driver, so that its loop never reads a prompt.
    fn check(&self, request: &EngineRequest) -> Result<(), EngineError> {
        self.shared.with_worker_info(|info| info.map_or_else(|| Err(self.gone()), |info| check(request, info)))
    }

    fn gone(&self) -> EngineError {
        EngineError::Unavailable(unavailable(&self.state()))
    }
}

fn check(request: &EngineRequest, info: &WorkerInfo) -> Result<(), EngineError> {
    if let Some(id) = request.token_ids.iter().find(|id| **id >= info.vocab_size) {
        let vocab_size = info.vocab_size;
        return Err(EngineError::Invalid(format!("token id `{id}` is outside the vocabulary of `{vocab_size}`")));
    }
    let needs = [
        (request.logprobs, "logprobs"),
        (request.prompt_logprobs, "prompt_logprobs"),
        (!request.sampling.grammar_id.is_empty(), "grammar"),
    ];
    let missing = needs.into_iter().find(|(asked, name)| *asked && !info.features.iter().any(|have| have == name));
    match missing {
        Some((_, name)) => Err(EngineError::Invalid(format!("this worker does not offer `{name}`"))),
        None => Ok(()),
    }
}

/// Why a state takes no requests.
pub(crate) fn unavailable(state: &EngineState) -> String {
    match state {
        EngineState::Starting => "the model is loading".to_owned(),
        EngineState::Ready => "the engine has stopped".to_owned(),
        EngineState::Restarting(reason) => format!("its workers are restarting ({reason})"),
        EngineState::Failed(reason) => format!("its workers did not start ({reason})"),
        EngineState::Draining => "the server is shutting down".to_owned(),
    }
}

/// The tokens of one request as they come. Dropping it cancels the request.
#[derive(Debug)]
pub struct Generation {
    id: RequestId,
    events: mpsc::Receiver<Delivery>,
    place: Arc<Place>,
    ended: bool,
}

impl Generation {
    /// The next event; `None` after `Finished` or an error. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<GenerationEvent, EngineError>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`Generation::next`] for those who wait for several generations at once.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<GenerationEvent, EngineError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let delivery = ready!(self.events.poll_recv(context))
            .unwrap_or_else(|| Err(EngineError::Unavailable("the engine has stopped".to_owned())));
        self.ended = !matches!(&delivery, Ok(event) if !matches!(event, GenerationEvent::Finished(_)));
        Poll::Ready(Some(delivery))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended {
            self.place.leave(self.id);
        }
    }
}
