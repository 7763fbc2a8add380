//! From flags to checked values: everything that can be refused without reading a model is refused here.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::HeaderValue;
use forebay_api::{Limits, MAX_CHOICES, PlatformRouteError, PlatformRoutes, Watermark};
use forebay_engine::{EngineConfig, Heartbeat, StepTarget};

use crate::args::{ScheduleArgs, ServeArgs, WorkerArgs};
use crate::compatibility::{self, Remark};
use crate::key_file;
use crate::model_source::ModelSource;
use crate::secret::Secret;
use crate::variables::Surroundings;

/// Sequences that run at once if the operator does not say.
const DEFAULT_MAX_SEQUENCES: u32 = 128;
/// Tokens a step computes if the operator does not say: enough rows to keep matrix products efficient, few enough
/// that a decode beside a chunk does not wait for long.
const DEFAULT_MAX_PLAN_TOKENS: u32 = 512;
/// How much longer prompts may make a step with decodes: see `docs/decisions/0011-chunks-by-time.md`.
const DEFAULT_STEP_TARGET: StepTarget = StepTarget::Stretch { percent: 150 };
/// Events that may wait for a slow reader: minutes of generation, some kilobytes.
const MAX_BUFFERED_EVENTS: usize = 8192;

/// Why a command line is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// Flags whose feature does not exist.
    #[error("{}", list_refusals(.0))]
    Unbuilt(Vec<Remark>),
    /// The model is named twice.
    #[error("two models are named, `{positional}` and `{flag}`: give one")]
    TwoModels {
        /// The argument.
        positional: String,
        /// `--model-id`.
        flag: String,
    },
    /// Both names of one limit.
    #[error("both `--max-input-tokens` and its older name `--max-input-length` are given: give one")]
    TwoInputLimits,
    /// A prompt could not be followed by one token.
    #[error("`--max-input-tokens` is `{input}`, expected less than `--max-total-tokens` `{total}`")]
    InputNotBelowTotal {
        /// `--max-input-tokens`.
        input: u32,
        /// `--max-total-tokens`.
        total: u32,
    },
    /// `--sharded true` without a number.
    #[error("`--sharded true` needs `--num-shard N` with N at least 2, or so many GPUs in `CUDA_VISIBLE_DEVICES`")]
    ShardedWithoutNumber,
    /// `--sharded` and `--num-shard` say opposite things.
    #[error("`--sharded {sharded}` contradicts `--num-shard {num_shard}`: leave `--sharded` out")]
    ShardedContradicts {
        /// `--sharded`.
        sharded: bool,
        /// `--num-shard`.
        num_shard: u32,
    },
    /// A share of what is not used.
    #[error("`--cuda-memory-fraction` is `{0}`, but `--device` is `cpu`: size the cache with `--kv-cache-bytes`")]
    FractionOfNoGpu(f64),
    /// A step could not hold one token of each sequence.
    #[error("`--max-batch-prefill-tokens` is `{plan}`, expected at least `--max-batch-size` `{sequences}`")]
    PlanTooSmall {
        /// `--max-batch-prefill-tokens`.
        plan: u32,
        /// `--max-batch-size`.
        sequences: u32,
    },
    /// Where Vertex AI sends its requests.
    #[error("`AIP_PREDICT_ROUTE` or `AIP_HEALTH_ROUTE` is {0}")]
    PlatformRoute(#[from] PlatformRouteError),
    /// A name that no header can hold.
    #[error("`--compute-type` is `{0}`, expected visible ASCII characters")]
    ComputeType(String),
    /// An origin that no header can hold.
    #[error("`--cors-allow-origin` is `{0}`, expected an origin as `https://example.org`")]
    Origin(String),
    /// The key file cannot be read or is empty.
    #[error("`--api-key-file` `{path}`: {reason}")]
    ApiKeyFile {
        /// Which.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

fn list_refusals(remarks: &[Remark]) -> String {
    let lines: Vec<String> = remarks.iter().map(|remark| format!("`{}`: {}", remark.flag, remark.why)).collect();
    format!("settings that are not built are refused: {}", lines.join("; "))
}

/// What all shards of a group are told alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WorkerSettings {
    pub(crate) num_replicas: u32,
    pub(crate) num_shard: u32,
    pub(crate) num_threads: u32,
    /// Whether workers are forked from a spare process.
    pub(crate) spare_workers: bool,
    pub(crate) dtype: Option<String>,
    pub(crate) kv_cache_dtype: Option<String>,
    pub(crate) device: String,
    pub(crate) cuda_memory_fraction: f64,
    pub(crate) custom_kernels: bool,
    pub(crate) attention: String,
    pub(crate) deterministic: bool,
    pub(crate) block_size: u32,
    pub(crate) max_sequences: u32,
    pub(crate) max_plan_tokens: u32,
    pub(crate) max_total_tokens: Option<u32>,
    pub(crate) kv_cache_bytes: Option<u64>,
    pub(crate) kv_cache_tokens: Option<u64>,
    pub(crate) max_run_ahead: u32,
    pub(crate) log_level: &'static str,
}

/// The checked command line of `serve`.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) address: SocketAddr,
    pub(crate) max_connections: usize,
    /// Where the keys stand, if they may change.
    pub(crate) api_key_file: Option<PathBuf>,
    pub(crate) platform_routes: PlatformRoutes,
    pub(crate) watermark: Watermark,
    /// `x-compute-type`, if the operator says.
    pub(crate) compute_type: Option<HeaderValue>,
    /// Any if empty.
    pub(crate) cors_allow_origin: Vec<HeaderValue>,
    pub(crate) api_keys: Vec<Secret>,
    pub(crate) graceful_timeout: Duration,
    pub(crate) model: ModelSource,
    /// `--python`.
    pub(crate) python: Option<PathBuf>,
    /// The variable `PATH`.
    pub(crate) search_path: Option<OsString>,
    pub(crate) workers: WorkerSettings,
    pub(crate) limits: Limits,
    pub(crate) engine: EngineConfig,
    /// Flags that do nothing, for the log.
    pub(crate) without_effect: Vec<Remark>,
}

impl Settings {
    /// Checks a command line. Reads nothing but the key file.
    pub(crate) fn from_args(args: &ServeArgs, surroundings: Surroundings) -> Result<Self, SettingsError> {
        let refused = compatibility::refused(args);
        if !refused.is_empty() {
            return Err(SettingsError::Unbuilt(refused));
        }
        let limits = request_limits(args)?;
        let workers = worker_settings(args, surroundings.num_visible_gpus)?;
        let mut without_effect = compatibility::without_effect(&args.moot);
        without_effect.extend(surroundings.without_effect);
        Ok(Self {
            address: SocketAddr::new(args.http.hostname, args.http.port),
            max_connections: args.http.max_connections as usize,
            api_key_file: args.http.api_key_file.clone(),
            platform_routes: platform_routes(args)?,
            watermark: Watermark { gamma: args.watermark.watermark_gamma, delta: args.watermark.watermark_delta },
            compute_type: compute_type(args)?,
            cors_allow_origin: origins(args.http.cors_allow_origin.as_deref().unwrap_or_default())?,
            api_keys: api_keys(args)?,
            graceful_timeout: Duration::from_secs(args.http.graceful_termination_timeout),
            model: model_source(args, workers.num_shard)?,
            python: args.workers.python.clone(),
            search_path: surroundings.search_path,
            engine: engine_config(args, &workers),
            workers,
            limits,
            without_effect,
        })
    }
}

fn model_source(args: &ServeArgs, num_shard: u32) -> Result<ModelSource, SettingsError> {
    let model_id = match (&args.model.model, &args.model.model_id) {
        (Some(positional), Some(flag)) if positional != flag => {
            return Err(SettingsError::TwoModels { positional: positional.clone(), flag: flag.clone() });
        }
        (positional, flag) => positional.clone().or_else(|| flag.clone()),
    };
    Ok(ModelSource {
        model_id,
        revision: args.model.revision.clone(),
        num_shard,
        hub_cache: args.model.huggingface_hub_cache.clone(),
        weights_cache: args.model.weights_cache_override.clone(),
        tokenizer_config: args.model.tokenizer_config_path.clone(),
    })
}

fn request_limits(args: &ServeArgs) -> Result<Limits, SettingsError> {
    let limits = &args.limits;
    if limits.max_input_tokens.is_some() && limits.max_input_length.is_some() {
        return Err(SettingsError::TwoInputLimits);
    }
    let max_input_tokens = limits.max_input_tokens.or(limits.max_input_length);
    if let (Some(input), Some(total)) = (max_input_tokens, limits.max_total_tokens)
        && input >= total
    {
        return Err(SettingsError::InputNotBelowTotal { input, total });
    }
    let payload_limit = usize::try_from(limits.payload_limit).unwrap_or(usize::MAX);
    Ok(Limits {
        max_concurrent_requests: limits.max_concurrent_requests as usize,
        max_best_of: u64::from(limits.max_best_of),
        max_stop_sequences: limits.max_stop_sequences as usize,
        max_top_n_tokens: limits.max_top_n_tokens,
        max_input_tokens,
        max_client_batch_size: limits.max_client_batch_size as usize,
        validation_workers: limits.validation_workers as usize,
        max_body_bytes: payload_limit,
        max_prompt_bytes: payload_limit,
    })
}

fn origins(names: &[String]) -> Result<Vec<HeaderValue>, SettingsError> {
    let any = names.iter().any(|name| name == "*");
    let named = if any { &[] } else { names };
    let parse = |name: &String| name.parse().map_err(|_| SettingsError::Origin(name.clone()));
    named.iter().map(parse).collect()
}

fn platform_routes(args: &ServeArgs) -> Result<PlatformRoutes, PlatformRouteError> {
    PlatformRoutes::new(args.http.vertex_predict_route.clone(), args.http.vertex_health_route.clone())
}

fn compute_type(args: &ServeArgs) -> Result<Option<HeaderValue>, SettingsError> {
    let parse = |name: &String| name.parse().map_err(|_| SettingsError::ComputeType(name.clone()));
    args.http.compute_type.as_ref().map(parse).transpose()
}

fn num_shard(args: &WorkerArgs, num_visible_gpus: Option<u32>) -> Result<u32, SettingsError> {
    match (args.sharded, args.num_shard) {
        (Some(true), None) => num_visible_gpus.filter(|&gpus| gpus > 1).ok_or(SettingsError::ShardedWithoutNumber),
        (Some(sharded), Some(num_shard)) if sharded != (num_shard > 1) => {
            Err(SettingsError::ShardedContradicts { sharded, num_shard })
        }
        (_, num_shard) => Ok(num_shard.unwrap_or(1)),
    }
}

fn worker_settings(args: &ServeArgs, num_visible_gpus: Option<u32>) -> Result<WorkerSettings, SettingsError> {
    let num_shard = num_shard(&args.workers, num_visible_gpus)?;
    let (max_sequences, max_plan_tokens) = batch_bounds(&args.schedule, args.limits.max_concurrent_requests)?;
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get) as u32;
    let num_replicas = args.workers.replicas;
    Ok(WorkerSettings {
        num_replicas,
        num_shard,
        num_threads: args.workers.num_threads.unwrap_or((cores / num_shard / num_replicas).max(1)),
        // What is forked from needs Linux's death signal: elsewhere it would outlive us.
        spare_workers: cfg!(target_os = "linux") && !args.workers.disable_spare_worker,
        dtype: args.workers.dtype.clone(),
        kv_cache_dtype: args.workers.kv_cache_dtype.clone(),
        device: args.workers.device.clone(),
        cuda_memory_fraction: cuda_memory_fraction(&args.workers)?,
        custom_kernels: !args.workers.disable_custom_kernels,
        attention: args.workers.attention.clone(),
        deterministic: args.workers.deterministic,
        block_size: args.schedule.block_size,
        max_sequences,
        max_plan_tokens,
        max_total_tokens: args.limits.max_total_tokens,
        kv_cache_bytes: args.schedule.kv_cache_bytes,
        kv_cache_tokens: args.schedule.kv_cache_tokens,
        max_run_ahead: args.schedule.run_ahead,
        log_level: worker_log_level(&args.logs.log_level),
    })
}

fn cuda_memory_fraction(args: &WorkerArgs) -> Result<f64, SettingsError> {
    match (args.cuda_memory_fraction, args.device.as_str()) {
        (fraction, "cpu") if fraction < 1.0 => Err(SettingsError::FractionOfNoGpu(fraction)),
        (fraction, _) => Ok(fraction),
    }
}

/// `(max_sequences, max_plan_tokens)`. What the operator leaves open follows what he fixed.
fn batch_bounds(args: &ScheduleArgs, max_requests: u32) -> Result<(u32, u32), SettingsError> {
    let open_sequences = DEFAULT_MAX_SEQUENCES.min(max_requests);
    match (args.max_batch_size, args.max_batch_prefill_tokens) {
        (Some(sequences), Some(plan)) if plan < sequences => Err(SettingsError::PlanTooSmall { plan, sequences }),
        (Some(sequences), Some(plan)) => Ok((sequences, plan)),
        (Some(sequences), None) => Ok((sequences, DEFAULT_MAX_PLAN_TOKENS.max(sequences))),
        (None, Some(plan)) => Ok((open_sequences.min(plan), plan)),
        (None, None) => Ok((open_sequences, DEFAULT_MAX_PLAN_TOKENS)),
    }
}

/// Workers know a level, not filters by module.
fn worker_log_level(filter: &str) -> &'static str {
    let level = filter.split(',').find(|part| !part.contains('=')).unwrap_or("info");
    ["trace", "debug", "warn", "error", "off"]
        .into_iter()
        .find(|known| level.eq_ignore_ascii_case(known))
        .unwrap_or("info")
}

fn engine_config(args: &ServeArgs, workers: &WorkerSettings) -> EngineConfig {
    // The API counts requests; each may become several sequences, all of which may wait.
    let sequences_a_request = args.limits.max_best_of.max(args.limits.max_client_batch_size).max(1);
    EngineConfig {
        run_ahead: args.schedule.run_ahead,
        step_target: step_target(args.schedule.target_inter_token_ms),
        max_queued: args.limits.max_concurrent_requests.saturating_mul(sequences_a_request).max(MAX_CHOICES),
        max_queued_tokens: args.limits.max_queued_tokens,
        max_cached_tokens: args.schedule.prefix_cache_tokens,
        max_total_tokens: args.limits.max_total_tokens,
        max_plan_tokens: Some(workers.max_plan_tokens),
        max_sequences: Some(workers.max_sequences),
        tokenizer_vocab_size: 0,
        start_timeout: Duration::from_secs(args.workers.start_timeout),
        restart_timeout: Duration::from_secs(args.workers.restart_timeout),
        step_timeout: Duration::from_secs(args.workers.step_timeout),
        heartbeat: Heartbeat {
            interval: Duration::from_secs(args.workers.heartbeat_interval),
            max_missed: args.workers.max_missed_heartbeats,
        },
        max_buffered_events: MAX_BUFFERED_EVENTS,
        prefix_caching: args.schedule.prefix_caching,
    }
}

fn step_target(target_inter_token_ms: Option<u32>) -> StepTarget {
    match target_inter_token_ms {
        None => DEFAULT_STEP_TARGET,
        Some(0) => StepTarget::Unbounded,
        Some(ms) => StepTarget::Micros(u64::from(ms) * 1_000),
    }
}

fn api_keys(args: &ServeArgs) -> Result<Vec<Secret>, SettingsError> {
    let Some(path) = &args.http.api_key_file else {
        return Ok(args.http.api_key.clone().into_iter().collect());
    };
    read_api_keys(path)
}

/// One a line, at least one.
pub(crate) fn read_api_keys(path: &Path) -> Result<Vec<Secret>, SettingsError> {
    key_file::read(path).map_err(|reason| SettingsError::ApiKeyFile { path: path.display().to_string(), reason })
}

/// `1073741824`, `1GiB`, `512M`: powers of 1024 with an `i`, of 1000 without.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits_end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: u64 = digits.parse().map_err(|_| "expected a whole number of bytes, as `1073741824` or `1GiB`")?;
    let unit = unit.trim().to_ascii_lowercase();
    let exponent = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(format!("unknown unit `{unit}`: expected KiB, MiB, GiB, TiB or kB, MB, GB, TB")),
    };
    let base: u64 = if unit.contains('i') { 1024 } else { 1000 };
    match number.checked_mul(base.pow(exponent)) {
        Some(0) => Err("expected at least 1 byte".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("more than 2^64 bytes".to_owned()),
    }
}

/// More than 0, less than 1.
pub(crate) fn parse_gamma(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(gamma) if gamma > 0.0 && gamma < 1.0 => Ok(gamma),
        _ => Err("expected a number above 0 and below 1".to_owned()),
    }
}

/// Neither infinite nor NaN.
pub(crate) fn parse_finite(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|number: &f32| number.is_finite()).ok_or_else(|| "expected a number".to_owned())
}

/// More than 0, at most 1.
pub(crate) fn parse_fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(fraction) if fraction > 0.0 && fraction <= 1.0 => Ok(fraction),
        _ => Err("expected a number above 0, at most 1".to_owned()),
    }
}

/// Above 0, as seconds and rates are.
pub(crate) fn parse_positive(text: &str) -> Result<f64, String> {
    parse_number(text, |number| number > 0.0, "expected a number above 0, at most 1000000000")
}

/// 0 or above.
pub(crate) fn parse_not_negative(text: &str) -> Result<f64, String> {
    parse_number(text, |number| number >= 0.0, "expected a number from 0 to 1000000000")
}

/// 0 to 1.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    parse_number(text, |number| (0.0..=1.0).contains(&number), "expected a number from 0 to 1")
}

fn parse_number(text: &str, holds: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    const MAX: f64 = 1e9;
    text.parse().ok().filter(|&number| holds(number) && number <= MAX).ok_or_else(|| expected.to_owned())
}

/// Fields of a body.
pub(crate) fn parse_object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))
}

#[cfg(test)]
mod tests;
