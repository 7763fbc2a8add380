//! `POST /tokenize`: the prompt's tokens with their byte ranges. Takes what `/generate` takes and refuses what it refuses,
//! but only `inputs` matters here.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use forebay_text::ModelText;
use serde::Serialize;

use super::request::{GenerateRequest, JsonBody, Route};
use crate::error::{ApiError, Dialect, NativeError};
use crate::state::AppState;
use crate::validation;

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/tokenize", post(handler))
}

/// The part of the text that became a token; nothing for a token that the tokenizer added (BOS).
#[derive(Debug, Serialize)]
pub(super) struct SimpleToken {
    id: u32,
    text: String,
    start: usize,
    stop: usize,
}

async fn handler(State(state): State<AppState>, body: JsonBody) -> Result<Json<Vec<SimpleToken>>, NativeError> {
    let request = GenerateRequest::parse(&state, body)?;
    let inputs = request.inputs.clone();
    request.into_job(&state, Route { streams: false, return_full_text: false })?;
    validation::prompt_bytes(Dialect::Native, &inputs, state.limits().max_prompt_bytes)?;
    let text = Arc::clone(&state.model()?.text);
    Ok(Json(state.on_text_worker(move || tokenize(&text, &inputs, true)).await?))
}

/// `add_special` lets the tokenizer add the model's special tokens.
pub(super) fn tokenize(text: &ModelText, inputs: &str, add_special: bool) -> Result<Vec<SimpleToken>, ApiError> {
    let encoding = text.tokenizer.encode(inputs, add_special)?;
    let tokens = encoding.ids.into_iter().zip(encoding.offsets).map(|(id, range)| {
        let bytes = inputs.as_bytes().get(range.clone()).unwrap_or_default();
        // A byte-level token may be half a character.
        SimpleToken { id, text: String::from_utf8_lossy(bytes).into_owned(), start: range.start, stop: range.end }
    });
    Ok(tokens.collect())
}
