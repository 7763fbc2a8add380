//! What every handler shares: the model once it is there, the operator's limits, keys and metrics.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use axum::http::HeaderValue;
use forebay_engine::{Engine, EngineState, WorkerInfo};
use forebay_text::ModelText;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::ApiKeys;
use crate::cloud::PlatformRoutes;
use crate::error::ApiError;
use crate::telemetry;

/// The operator's bounds, with TGI's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests in the server at once; more are answered 429.
    pub max_concurrent_requests: usize,
    /// Largest `best_of`.
    pub max_best_of: u64,
    /// Stop strings a request may name.
    pub max_stop_sequences: usize,
    /// Largest `top_n_tokens`.
    pub max_top_n_tokens: u32,
    /// Longest prompt; `max_total_tokens - 1` if absent.
    pub max_input_tokens: Option<u32>,
    /// Prompts one request may hold.
    pub max_client_batch_size: usize,
    /// Threads that render and tokenize.
    pub validation_workers: usize,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// Longest prompt text that is tokenized; a template can make a prompt longer than the body was.
    pub max_prompt_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_concurrent_requests: 128,
            max_best_of: 2,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            max_input_tokens: None,
            max_client_batch_size: 4,
            validation_workers: 2,
            max_body_bytes: 2_000_000,
            max_prompt_bytes: 2_000_000,
        }
    }
}

/// How strong watermarks are, with TGI's defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watermark {
    /// The share of tokens that become likelier, above 0 and below 1.
    pub gamma: f32,
    /// What their logits gain.
    pub delta: f32,
}

impl Default for Watermark {
    fn default() -> Self {
        Self { gamma: 0.5, delta: 2.0 }
    }
}

/// Which build of the server this is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Build {
    /// The release.
    pub version: String,
    /// The commit, if known.
    pub sha: Option<String>,
    /// The image's label, if run from one.
    pub docker_label: Option<String>,
}

/// What is known before any model is.
pub struct AppConfig {
    /// Bounds.
    pub limits: Limits,
    /// Of whoever asks for one.
    pub watermark: Watermark,
    /// Accepted keys; with none, no key is asked for.
    pub api_keys: Vec<String>,
    /// Where a platform sends its requests, beside our own routes.
    pub platform_routes: PlatformRoutes,
    /// What `x-compute-type` tells, if not the shards and their device.
    pub compute_type: Option<HeaderValue>,
    /// Origins that browsers may call from; with none, any.
    pub cors_allow_origin: Vec<HeaderValue>,
    /// Which build this is.
    pub build: Build,
    /// Renders `/metrics`; of the recorder that [`crate::recorder`] builds.
    pub metrics: PrometheusHandle,
}

impl fmt::Debug for AppConfig {
    /// Without the keys and the handle.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppConfig")
            .field("limits", &self.limits)
            .field("watermark", &self.watermark)
            .field("num_api_keys", &self.api_keys.len())
            .field("platform_routes", &self.platform_routes)
            .field("compute_type", &self.compute_type)
            .field("cors_allow_origin", &self.cors_allow_origin)
            .field("build", &self.build)
            .finish_non_exhaustive()
    }
}

/// The model that is served.
#[derive(Debug, Clone)]
pub struct ServedModel {
    /// As the operator named it.
    pub id: String,
    /// Its revision's commit, if it came from the hub.
    pub sha: Option<String>,
    /// Its task on the hub, if known.
    pub pipeline_tag: Option<String>,
    /// Makes its tokens.
    pub engine: Engine,
    /// Its tokenizer and templates.
    pub text: Arc<ModelText>,
}

/// The bounds on tokens that follow from flags and workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenLimits {
    /// Longest prompt.
    pub(crate) max_input_tokens: u32,
    /// Prompt and generated tokens together.
    pub(crate) max_total_tokens: u32,
}

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    config: AppConfig,
    keys: RwLock<Arc<ApiKeys>>,
    model: OnceLock<ServedModel>,
    requests: Arc<Semaphore>,
    text_workers: Arc<Semaphore>,
}

impl fmt::Debug for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl AppState {
    /// A server without a model yet: it answers 503 to whatever needs one until [`AppState::serve`] is called.
    pub fn new(config: AppConfig) -> Self {
        telemetry::describe();
        let keys = RwLock::new(Arc::new(ApiKeys::new(&config.api_keys)));
        let requests = Arc::new(Semaphore::new(config.limits.max_concurrent_requests));
        let text_workers = Arc::new(Semaphore::new(config.limits.validation_workers.max(1)));
        Self(Arc::new(Shared { config, keys, model: OnceLock::new(), requests, text_workers }))
    }

    /// Gives the server its model, once. A second one is handed back.
    pub fn serve(&self, model: ServedModel) -> Result<(), Box<ServedModel>> {
        self.0.model.set(model).map_err(Box::new)
    }

    /// The model, or a 503.
    pub(crate) fn model(&self) -> Result<&ServedModel, ApiError> {
        self.0.model.get().ok_or_else(|| ApiError::Unavailable("the model is not ready: loading".to_owned()))
    }

    /// Whether requests can be served now.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.model.get().is_some_and(|model| model.engine.state() == EngineState::Ready)
    }

    /// What the workers said, or a 503 while they have not.
    pub(crate) fn worker_info(&self) -> Result<WorkerInfo, ApiError> {
        self.model()?
            .engine
            .worker_info()
            .ok_or_else(|| ApiError::Unavailable("the model is not ready: its workers are starting".to_owned()))
    }

    /// Bounds on tokens.
    pub(crate) fn token_limits(&self) -> Result<TokenLimits, ApiError> {
        let max_total_tokens = self.worker_info()?.max_total_tokens;
        let longest_input = max_total_tokens.saturating_sub(1);
        let max_input_tokens = self.limits().max_input_tokens.map_or(longest_input, |flag| flag.min(longest_input));
        Ok(TokenLimits { max_input_tokens, max_total_tokens })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.config.limits
    }

    pub(crate) fn watermark(&self) -> Watermark {
        self.0.config.watermark
    }

    pub(crate) fn build(&self) -> &Build {
        &self.0.config.build
    }

    /// From the next request on, these keys count and no others. With none the old ones stay: a server that asks for a
    /// key never ceases to.
    pub fn replace_api_keys(&self, keys: &[String]) {
        if !keys.is_empty() {
            *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ApiKeys::new(keys));
        }
    }

    pub(crate) fn keys(&self) -> Arc<ApiKeys> {
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn platform_routes(&self) -> &PlatformRoutes {
        &self.0.config.platform_routes
    }

    /// What `x-compute-type` tells, if the operator says.
    pub(crate) fn compute_type(&self) -> Option<&HeaderValue> {
        self.0.config.compute_type.as_ref()
    }

    pub(crate) fn cors_allow_origin(&self) -> &[HeaderValue] {
        &self.0.config.cors_allow_origin
    }

    pub(crate) fn metrics(&self) -> &PrometheusHandle {
        &self.0.config.metrics
    }

    /// OpenAI's `system_fingerprint`, as TGI fills it.
    pub(crate) fn system_fingerprint(&self) -> String {
        let build = self.build();
        format!("{}-{}", build.version, build.docker_label.as_deref().unwrap_or("native"))
    }

    /// A place in the server, held for a request's whole life, or a 429 at once.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.0.requests).try_acquire_owned().map_err(|_| ApiError::Overloaded {
            message: "Model is overloaded".to_owned(),
            retry_after: std::time::Duration::from_secs(1),
        })
    }

    /// Runs text work (templates, tokenizing) on the blocking pool, at most `validation_workers` at a time: a long
    /// text must not hold up the threads that write everybody's streams.
    pub(crate) async fn on_text_worker<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = Arc::clone(&self.0.text_workers).acquire_owned().await.map_err(|_| ApiError::Internal)?;
        tokio::task::spawn_blocking(move || {
            // Inside the closure: an abandoned request's text work still counts against the bound until it is done.
            let _permit = permit;
            work()
        })
        .await
        .map_err(|_| ApiError::Internal)?
    }
}

/// A number that no client can guess from others: for seeds and ids, not for keys. Each `RandomState` hashes under a
/// key that the system's randomness made.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().build_hasher().finish()
}
