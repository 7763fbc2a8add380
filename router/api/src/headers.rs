//! What answers tell of their computation, by TGI's names: on its routes and on OpenAI's, as there.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::choices::Choices;
use crate::error::ApiError;
use crate::state::AppState;
use crate::telemetry::Timings;

const COMPUTE_TYPE: HeaderName = HeaderName::from_static("x-compute-type");
const COMPUTE_CHARACTERS: HeaderName = HeaderName::from_static("x-compute-characters");
const COMPUTE_TIME: HeaderName = HeaderName::from_static("x-compute-time");

/// Of every answer, streamed or whole: where it was computed, and the length of its prompts.
pub(crate) fn compute(state: &AppState, choices: &Choices) -> Result<HeaderMap, ApiError> {
    let info = state.worker_info()?;
    let mut headers = HeaderMap::new();
    let shards = || HeaderValue::from_str(&format!("{}-{}", info.world_size, info.device)).ok();
    if let Some(compute_type) = state.compute_type().cloned().or_else(shards) {
        headers.insert(COMPUTE_TYPE, compute_type);
    }
    let prompts = choices.generations().iter().filter(|generation| generation.is_first_choice());
    let num_characters: usize = prompts.map(|generation| generation.prompt().text.chars().count()).sum();
    headers.insert(COMPUTE_CHARACTERS, num_characters.into());
    Ok(headers)
}

/// Of a whole answer, too: how long its parts took, and its tokens. In TGI's units: `x-compute-time` in seconds with a
/// fraction, the others in whole milliseconds.
pub(crate) fn add_timings(
    headers: &mut HeaderMap,
    timings: Timings,
    num_prompt_tokens: usize,
    num_generated_tokens: u32,
) {
    if let Ok(seconds) = HeaderValue::from_str(&timings.total.as_secs_f64().to_string()) {
        headers.insert(COMPUTE_TIME, seconds);
    }
    for (name, duration) in [
        ("x-total-time", timings.total),
        ("x-validation-time", timings.validation),
        ("x-queue-time", timings.queue),
        ("x-inference-time", timings.inference),
        ("x-time-per-token", timings.time_per_token),
    ] {
        headers.insert(name, HeaderValue::from(duration.as_millis() as u64));
    }
    headers.insert("x-prompt-tokens", num_prompt_tokens.into());
    headers.insert("x-generated-tokens", num_generated_tokens.into());
}
