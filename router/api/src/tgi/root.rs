//! `POST /`: an array of one answer, or a stream if the body says so. The route that `huggingface_hub` posts to.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};

use super::generate::{answer_stream, answer_whole};
use super::request::{GenerateRequest, JsonBody};
use crate::error::NativeError;
use crate::state::AppState;
use crate::telemetry::RequestRecord;

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/", post(handler))
}

pub(crate) async fn handler(State(state): State<AppState>, body: JsonBody) -> Result<Response, NativeError> {
    let mut record = RequestRecord::begin();
    let request = record.check(GenerateRequest::parse(&state, body))?;
    let return_full_text = record.check(returns_full_text(&state))?;
    if request.stream {
        return Ok(answer_stream(&state, request, return_full_text, record).await?);
    }
    let (headers, answer) = answer_whole(&state, request, return_full_text, record).await?;
    Ok((headers, Json([answer])).into_response())
}

/// On this route the model's task decides whether the prompt stands before the answer, as in TGI: it does for
/// `text-generation`, and for models that are not on the hub.
fn returns_full_text(state: &AppState) -> Result<bool, crate::error::ApiError> {
    Ok(state.model()?.pipeline_tag.as_deref().is_none_or(|tag| tag == "text-generation"))
}
