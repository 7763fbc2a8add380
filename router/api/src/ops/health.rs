//! `GET /health`, `/ping` and `/`: whether requests can be served now. Answered from a value the engine keeps, never by
//! asking a worker: a long step must not fail a probe.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::error::{ApiError, Dialect};
use crate::state::AppState;

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/health", get(handler)).route("/ping", get(handler)).route("/", get(handler))
}

pub(crate) async fn handler(State(state): State<AppState>) -> Response {
    if state.is_ready() { StatusCode::OK.into_response() } else { ApiError::Unhealthy.response(Dialect::Native) }
}
