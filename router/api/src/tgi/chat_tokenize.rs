//! `POST /chat_tokenize`: a chat as the model's template writes it, and that text's tokens with their byte ranges. Takes
//! the body of `/v1/chat/completions`. Unlike TGI's it asks for the key.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use forebay_text::{ChatInputs, ModelText};
use serde::Serialize;

use super::request::JsonBody;
use super::tokenize::{SimpleToken, tokenize};
use crate::error::{ApiError, Dialect, NativeError};
use crate::generate::render;
use crate::openai::chat_completions::ChatRequest;
use crate::state::AppState;
use crate::validation;

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/chat_tokenize", post(handler))
}

#[derive(Debug, Serialize)]
struct ChatTokenizeResponse {
    tokenize_response: Vec<SimpleToken>,
    templated_text: String,
}

/// The prompt that a chat completion would give to the model, so without special tokens unless the request asks for them.
async fn handler(State(state): State<AppState>, body: JsonBody) -> Result<Json<ChatTokenizeResponse>, NativeError> {
    let ChatRequest { common, inputs, .. } = ChatRequest::parse(&state, body)?;
    let add_special = common.add_special_tokens.unwrap_or(false);
    let max_bytes = state.limits().max_prompt_bytes;
    let text = Arc::clone(&state.model()?.text);
    Ok(Json(state.on_text_worker(move || chat_tokenize(&text, &inputs, add_special, max_bytes)).await?))
}

fn chat_tokenize(
    text: &ModelText,
    inputs: &ChatInputs,
    add_special: bool,
    max_bytes: usize,
) -> Result<ChatTokenizeResponse, ApiError> {
    let templated_text = render(text, inputs)?;
    // In the words of the chat completion that this stands for: there is no `inputs` here.
    validation::prompt_bytes(Dialect::OpenAi, &templated_text, max_bytes)?;
    let tokenize_response = tokenize(text, &templated_text, add_special)?;
    Ok(ChatTokenizeResponse { tokenize_response, templated_text })
}
