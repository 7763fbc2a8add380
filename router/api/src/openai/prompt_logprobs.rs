//! vLLM's `prompt_logprobs`: how many alternatives to each prompt token, and the list that tells them.

use std::sync::Arc;

use forebay_engine::PromptLogprob;
use forebay_text::Tokenizer;
use serde::{Serialize, Serializer};

use super::logprobs::finite;
use crate::error::ApiError;
use crate::fields::{Fields, Served};
use crate::schema::integer;
use crate::text_generation::{EncodedPrompt, TextGeneration};

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
/// which nothing comes before. Written from what the choices share: as objects of their own the lists would take many
/// times the memory.
#[derive(Debug)]
pub(super) struct PromptLogprobs {
    prompt: Arc<EncodedPrompt>,
    tokenizer: Arc<Tokenizer>,
    num_top: u32,
}

impl PromptLogprobs {
    pub(super) fn of(generation: &TextGeneration, num_top: u32) -> Self {
        Self { prompt: Arc::clone(generation.prompt()), tokenizer: Arc::clone(generation.tokenizer()), num_top }
    }
}

impl Serialize for PromptLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = self.prompt.tokens().map(|(id, scored)| scored.map(|scored| Entry { list: self, id, scored }));
        serializer.collect_seq(entries)
    }
}

struct Entry<'a> {
    list: &'a PromptLogprobs,
    id: u32,
    scored: &'a PromptLogprob,
}

#[derive(Serialize)]
struct Known {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { list, id, scored } = *self;
        let best = scored.logprobs.top.iter().zip(1..=list.num_top).map(|(&(id, logprob), rank)| (id, logprob, rank));
        let own = (id, scored.logprobs.logprob, scored.rank);
        let all = [own].into_iter().chain(best.filter(|(other, ..)| *other != id));
        serializer.collect_map(all.map(|(id, logprob, rank)| {
            (id, Known { logprob: finite(logprob), rank, decoded_token: list.tokenizer.token_text(id) })
        }))
    }
}
