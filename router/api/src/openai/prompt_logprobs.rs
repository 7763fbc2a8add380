//! vLLM's `prompt_logprobs`: how many alternatives to each prompt token, and the list that tells them.

use forebay_text::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::logprobs::finite;
use crate::error::ApiError;
use crate::fields::{Fields, Served};
use crate::schema::integer;
use crate::text_generation::EncodedPrompt;

const NAME: &str = "prompt_logprobs";

/// As many as vLLM allows unless told otherwise.
const MAX_ALTERNATIVES: i64 = 20;

pub(super) const PROMPT_LOGPROBS: Served = (
    NAME,
    |_| integer().at_least(0).at_most(MAX_ALTERNATIVES),
    "Tell each prompt token's log-probability, and so many of the likeliest tokens'; not in a stream.",
);

/// `None`: nobody asked. vLLM's -1, the whole vocabulary for each token, is refused as any number out of range.
pub(super) fn take_prompt_logprobs(fields: &mut Fields, stream: bool) -> Result<Option<u32>, ApiError> {
    match fields.take::<i64>(NAME)? {
        None => Ok(None),
        Some(_) if stream => {
            Err(ApiError::validation(NAME, format!("`{NAME}` is not available when `stream` is true")))
        }
        Some(n) if (0..=MAX_ALTERNATIVES).contains(&n) => Ok(Some(n as u32)),
        Some(n) => {
            Err(ApiError::validation(NAME, format!("`{NAME}` must be between 0 and {MAX_ALTERNATIVES}. Given: {n}")))
        }
    }
}

/// One entry a prompt token: from the token's id and the best ones' to what is known of them. `null` for the first,
/// which nothing comes before.
#[derive(Debug, Serialize)]
pub(super) struct PromptLogprobs(Vec<Option<Map<String, Value>>>);

impl PromptLogprobs {
    pub(super) fn of(prompt: &EncodedPrompt, num_top: u32, tokenizer: &Tokenizer) -> Self {
        let entry = |id: u32, logprob: f32, rank: u32| {
            let known = json!({ "logprob": finite(logprob), "rank": rank, "decoded_token": tokenizer.token_text(id) });
            (id.to_string(), known)
        };
        let entries = prompt.tokens().map(|(id, scored)| {
            let scored = scored?;
            let others = scored.logprobs.top.iter().zip(1..=num_top).filter(|((other, _), _)| *other != id);
            let others = others.map(|(&(other, logprob), rank)| entry(other, logprob, rank));
            Some([entry(id, scored.logprobs.logprob, scored.rank)].into_iter().chain(others).collect())
        });
        Self(entries.collect())
    }
}
