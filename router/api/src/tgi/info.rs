//! `GET /info`: the model and the limits, by TGI's keys.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::error::NativeError;
use crate::state::AppState;

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/info", get(handler))
}

#[derive(Debug, Serialize)]
struct Info {
    model_id: String,
    model_sha: Option<String>,
    model_pipeline_tag: Option<String>,
    max_concurrent_requests: usize,
    max_best_of: u64,
    max_stop_sequences: usize,
    max_input_tokens: u32,
    max_total_tokens: u32,
    validation_workers: usize,
    max_client_batch_size: usize,
    router: &'static str,
    version: String,
    sha: Option<String>,
    docker_label: Option<String>,
    model_dtype: Option<String>,
    model_device_type: Option<String>,
    /// Not of TGI.
    deterministic: Option<bool>,
}

async fn handler(State(state): State<AppState>) -> Result<Json<Info>, NativeError> {
    let model = state.model()?;
    let tokens = state.token_limits()?;
    let worker = model.engine.worker_info();
    let (limits, build) = (state.limits(), state.build().clone());
    Ok(Json(Info {
        model_id: model.id.clone(),
        model_sha: model.sha.clone(),
        model_pipeline_tag: model.pipeline_tag.clone(),
        max_concurrent_requests: limits.max_concurrent_requests,
        max_best_of: limits.max_best_of,
        max_stop_sequences: limits.max_stop_sequences,
        max_input_tokens: tokens.max_input_tokens,
        max_total_tokens: tokens.max_total_tokens,
        validation_workers: limits.validation_workers,
        max_client_batch_size: limits.max_client_batch_size,
        router: "forebay",
        version: build.version,
        sha: build.sha,
        docker_label: build.docker_label,
        model_dtype: worker.as_ref().map(|worker| format!("torch.{}", worker.dtype)),
        model_device_type: worker.as_ref().map(|worker| worker.device.clone()),
        deterministic: worker.map(|worker| worker.features.iter().any(|name| name == "deterministic")),
    }))
}
