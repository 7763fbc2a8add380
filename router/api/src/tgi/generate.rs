//! `POST /generate`: the whole answer as one object; and the two ways to answer that `/` and `/generate_stream` share.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};

use super::request::{GenerateRequest, JsonBody, Route};
use super::response::{GenerateResponse, NativeWriter, whole};
use crate::error::{ApiError, NativeError};
use crate::generate::generate;
use crate::headers;
use crate::sse;
use crate::state::AppState;
use crate::telemetry::RequestRecord;

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/generate", post(handler))
}

/// `stream` in the body has no effect here, as in TGI: the route decides.
async fn handler(State(state): State<AppState>, body: JsonBody) -> Result<Response, NativeError> {
    let mut record = RequestRecord::begin();
    let request = record.check(GenerateRequest::parse(&state, body))?;
    let (headers, answer) = answer_whole(&state, request, false, record).await?;
    Ok((headers, Json(answer)).into_response())
}

/// The whole answer and its headers.
pub(crate) async fn answer_whole(
    state: &AppState,
    request: GenerateRequest,
    return_full_text: bool,
    mut record: RequestRecord,
) -> Result<(HeaderMap, GenerateResponse), ApiError> {
    let (job, options) = record.check(request.into_job(state, Route { streams: false, return_full_text }))?;
    let choices = generate(state, job, record).await?;
    let headers = headers::compute(state, &choices)?;
    whole(choices, options, headers).await
}

/// The answer as a stream. What can be known before it begins is answered with its own status, not inside of it.
pub(super) async fn answer_stream(
    state: &AppState,
    request: GenerateRequest,
    return_full_text: bool,
    mut record: RequestRecord,
) -> Result<Response, ApiError> {
    let (job, options) = record.check(request.into_job(state, Route { streams: true, return_full_text }))?;
    let choices = generate(state, job, record).await?;
    let writer = NativeWriter::new(&choices, options);
    sse::response(state, choices, writer)
}
