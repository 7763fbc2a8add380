//! `GET /v1/models`: the model that is served.

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::error::{ApiError, OpenAiError};
use crate::state::AppState;

pub(crate) fn router() -> Router<AppState> {
    // Ids of the hub hold a slash.
    Router::new().route("/v1/models", get(list)).route("/v1/models/{*id}", get(retrieve))
}

#[derive(Debug, Serialize)]
struct ModelList {
    object: &'static str,
    data: [Model; 1],
}

#[derive(Debug, Serialize)]
struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: String,
}

impl Model {
    fn served(state: &AppState) -> Result<Self, ApiError> {
        let id = state.model()?.id.clone();
        Ok(Self { owned_by: id.clone(), id, object: "model", created: 0 })
    }
}

async fn list(State(state): State<AppState>) -> Result<Json<ModelList>, OpenAiError> {
    Ok(Json(ModelList { object: "list", data: [Model::served(&state)?] }))
}

async fn retrieve(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Model>, OpenAiError> {
    let model = Model::served(&state)?;
    if model.id == id { Ok(Json(model)) } else { Err(ApiError::UnknownModel(id).into()) }
}
