//! `forebay serve`, in order: take the port, find the model, start the workers, be ready, drain.
//!
//! The port comes first: one in use ends the command before anything is loaded, and probes get a 503 that says
//! "loading" from the first moment.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_api::{AppConfig, AppState, Build, ServedModel};
use forebay_engine::{Engine, EngineConfig, EngineState};
use forebay_text::{ModelText, TextError};
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::http::{self, BindError};
use crate::key_file;
use crate::model_source::{ModelError, ModelInfo};
use crate::process::Spawner;
use crate::python::{self, NoPython};
use crate::settings::{Settings, WorkerSettings};
use crate::shutdown::{Signals, drain};
use crate::worker_process::WorkerEnvironment;
use crate::worker_spawner::WorkerSpawner;
use crate::workers::ProcessGroup;

/// How often old samples of histograms are folded together.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Sizes the buckets of lengths, which are fixed before the model is known.
const LONGEST_SEQUENCE_GUESS: u32 = 8192;

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Python(#[from] NoPython),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("the model's text files cannot be used: {0}")]
    Text(#[from] TextError),
    #[error("metrics cannot be recorded: {0}")]
    Metrics(#[from] BuildError),
    #[error("the model cannot be served: {0}")]
    Engine(String),
    #[error("{what}: {error}")]
    System { what: &'static str, error: io::Error },
}

impl ServeError {
    /// Whether another model or other flags would help: the exit code is 2 then.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Model(ModelError::Refused { .. }) | Self::Text(_))
    }

    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}

/// Serves until a signal comes or the workers are lost for good. `Ok` after a signal.
pub(crate) async fn serve(settings: Settings) -> Result<(), ServeError> {
    let mut signals = Signals::catch().map_err(ServeError::system("cannot catch signals"))?;
    let listener = http::bind(settings.address)?;
    http::raise_file_limit(settings.max_connections);
    let address = listener.local_addr().map_err(ServeError::system("the listener has no address"))?;
    let state = AppState::new(app_config(&settings)?);
    if let Some(path) = settings.api_key_file.clone() {
        tokio::spawn(key_file::watch(path, state.clone()));
    }
    let server = HttpServer::start(listener, &state, settings.max_connections);
    let result = tokio::select! {
        started = start_model(&settings, &state) => match started {
            Ok(model) => run(&model, &settings, address, &mut signals).await,
            Err(error) => Err(error),
        },
        name = signals.next() => {
            tracing::info!("{name} while starting: ending");
            Ok(())
        }
    };
    server.stop().await;
    result
}

/// The task that serves HTTP.
struct HttpServer {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl HttpServer {
    fn start(listener: TcpListener, state: &AppState, max_connections: usize) -> Self {
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            // Dropped means stop, too.
            let _ = stopped.await;
        };
        let app = forebay_api::app(state.clone());
        Self { stop, task: tokio::spawn(http::serve(listener, app, max_connections, stopped)) }
    }

    async fn stop(self) {
        drop(self.stop);
        // It panics only with a bug that the log shows by itself.
        let _ = self.task.await;
    }
}

fn app_config(settings: &Settings) -> Result<AppConfig, ServeError> {
    Ok(AppConfig {
        limits: settings.limits.clone(),
        api_keys: settings.api_keys.iter().map(|key| key.reveal().to_owned()).collect(),
        watermark: settings.watermark,
        platform_routes: settings.platform_routes.clone(),
        compute_type: settings.compute_type.clone(),
        cors_allow_origin: settings.cors_allow_origin.clone(),
        build: Build {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sha: option_env!("FOREBAY_BUILD_SHA").map(str::to_owned),
            docker_label: option_env!("FOREBAY_BUILD_DOCKER_LABEL").map(str::to_owned),
        },
        metrics: record_metrics(settings.workers.max_total_tokens.unwrap_or(LONGEST_SEQUENCE_GUESS))?,
    })
}

/// Installs the process's recorder of metrics and keeps it tidy.
fn record_metrics(max_total_tokens: u32) -> Result<PrometheusHandle, ServeError> {
    let recorder = forebay_api::recorder(max_total_tokens)?.build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("metrics were being recorded already; `/metrics` stays empty");
    }
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(METRICS_UPKEEP_INTERVAL);
        loop {
            interval.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// From a model's name to an engine whose workers are ready.
async fn start_model(settings: &Settings, state: &AppState) -> Result<ServedModel, ServeError> {
    let spawner = Spawner::start().map_err(ServeError::system("cannot start a thread"))?;
    let python = python::find(settings.python.as_deref(), settings.search_path.as_deref())?;
    let workers = &settings.workers;
    let worker_spawner = WorkerSpawner::new(spawner.clone(), python.clone(), workers.spare_workers);
    // Python's imports take longer than all else: they go on while the model is looked for.
    worker_spawner.prepare(environments(workers)).await.map_err(ServeError::system("cannot start workers"))?;
    let info = settings.model.resolve(&spawner, &python).await?;
    tracing::info!(
        model = info.model_id,
        path = %info.path.display(),
        format = info.format,
        architecture = info.architecture,
        quantization = info.quantization,
        "model found"
    );
    let text = Arc::new(load_text(&info, settings).await?);
    let config = EngineConfig { tokenizer_vocab_size: text.tokenizer.vocab_size(), ..settings.engine.clone() };
    let replicas = (0..workers.num_replicas).map(|replica| {
        let (path, workers) = (info.path.clone(), workers.clone());
        Ok((config.clone(), ProcessGroup::new(worker_spawner.clone(), path, workers, replica)?))
    });
    let replicas: Vec<_> = replicas.collect::<io::Result<_>>().map_err(ServeError::system("cannot start workers"))?;
    let engine = Engine::start_replicas(replicas);
    let model = ServedModel {
        id: info.model_id,
        sha: info.revision,
        pipeline_tag: info.pipeline_tag,
        engine: engine.clone(),
        text,
    };
    // This is the only model that the state is ever given.
    let _ = state.serve(model.clone());
    engine.all_started().await.map_err(ServeError::Engine)?;
    Ok(model)
}

/// Those of all workers.
fn environments(workers: &WorkerSettings) -> impl Iterator<Item = WorkerEnvironment> {
    let WorkerSettings { num_replicas, num_shard, .. } = *workers;
    let ranks = move |replica| (0..num_shard).map(move |rank| (replica, rank));
    (0..num_replicas).flat_map(ranks).map(|(replica, rank)| WorkerEnvironment::of(workers, replica, rank))
}

async fn load_text(info: &ModelInfo, settings: &Settings) -> Result<ModelText, ServeError> {
    let files = info.text_files(settings.model.tokenizer_config.as_deref());
    let loaded = tokio::task::spawn_blocking(move || ModelText::load(&files)).await;
    let text = loaded.map_err(|error| ServeError::System { what: "reading the tokenizer", error: error.into() })??;
    if let Some(warning) = text.tokenizer.warning() {
        tracing::warn!("{warning}");
    }
    Ok(text)
}

/// Until a signal, or until the workers will not come back.
async fn run(
    model: &ServedModel,
    settings: &Settings,
    address: SocketAddr,
    signals: &mut Signals,
) -> Result<(), ServeError> {
    log_ready(model, settings.workers.num_replicas, address);
    let engine = &model.engine;
    tokio::select! {
        reason = failure(engine) => Err(ServeError::Engine(reason)),
        name = signals.next() => {
            tracing::info!("{name}");
            drain(engine, settings.graceful_timeout, signals).await;
            Ok(())
        }
    }
}

async fn failure(engine: &Engine) -> String {
    let mut state = engine.state();
    loop {
        if let EngineState::Failed(reason) = state {
            return reason;
        }
        state = engine.state_changed(&state).await;
    }
}

fn log_ready(model: &ServedModel, num_replicas: u32, address: SocketAddr) {
    if let Some(info) = model.engine.worker_info() {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            model = model.id,
            revision = model.sha,
            device = info.device,
            replicas = num_replicas,
            shards = info.world_size,
            dtype = info.dtype,
            kv_cache_dtype = info.kv_cache_dtype,
            attention = info.attention_backend,
            run_ahead = info.run_ahead,
            "serving"
        );
        tracing::info!(
            max_total_tokens = info.max_total_tokens,
            max_sequences = info.max_sequences,
            max_plan_tokens = info.max_plan_tokens,
            kv_cache_tokens = u64::from(info.num_blocks.saturating_sub(1)) * u64::from(info.block_size),
            num_blocks = info.num_blocks,
            block_size = info.block_size,
            "limits"
        );
    }
    tracing::info!("ready on http://{address}");
}
