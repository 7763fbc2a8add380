//! `POST /generate_stream`: one event a token, ended by closing.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;

use super::generate::answer_stream;
use super::request::{GenerateRequest, JsonBody};
use crate::error::NativeError;
use crate::state::AppState;
use crate::telemetry::RequestRecord;

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/generate_stream", post(handler))
}

async fn handler(State(state): State<AppState>, body: JsonBody) -> Result<Response, NativeError> {
    let mut record = RequestRecord::begin();
    let request = record.check(GenerateRequest::parse(&state, body))?;
    Ok(answer_stream(&state, request, false, record).await?)
}
