//! `POST /invocations`: SageMaker's only route. The body says by its fields which of our routes it is meant for.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use crate::error::{ApiError, NativeError};
use crate::openai::{chat_completions, completions};
use crate::state::AppState;
use crate::telemetry::RequestRecord;
use crate::tgi::request::JsonBody;
use crate::tgi::root;

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/invocations", post(handler))
}

/// Answered and refused as on the route that is meant.
async fn handler(State(state): State<AppState>, body: JsonBody) -> Response {
    let has = |field: &str| body.as_ref().is_ok_and(|body| body.contains_key(field));
    if has("inputs") {
        root::handler(State(state), body).await.into_response()
    } else if has("messages") {
        chat_completions::handler(State(state), body).await.into_response()
    } else if has("prompt") {
        completions::handler(State(state), body).await.into_response()
    } else {
        let error = match body {
            Ok(_) => ApiError::wrong_type("inputs", "expected `inputs`, `messages` or `prompt`".to_owned()),
            Err(rejection) => ApiError::of_rejection(&rejection, state.limits().max_body_bytes),
        };
        RequestRecord::begin().failed(&error);
        NativeError::from(error).into_response()
    }
}
