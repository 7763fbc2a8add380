//! What all of OpenAI's answers share: head, usage, finish reasons.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use bytes::BytesMut;
use serde::Serialize;

use crate::choices::Choices;
use crate::headers;
use crate::sse::write_data_behind;
use crate::state::{AppState, random_u64};
use crate::text_generation::{Finish, TextGeneration};

/// The keys before `choices`, equal in every chunk of a stream.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: String,
}

impl Head {
    pub(crate) fn new(state: &AppState, id_prefix: &str, object: &'static str, model: String) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            id: format!("{id_prefix}-{:016x}{:016x}", random_u64(), random_u64()),
            object,
            created,
            model,
            system_fingerprint: state.system_fingerprint(),
        }
    }
}

/// A [`Head`] as it begins every chunk of a stream, written once: most of a chunk is the same as in the one before.
#[derive(Debug)]
pub(crate) struct ChunkHead(Vec<u8>);

impl ChunkHead {
    pub(crate) fn new(head: &Head) -> Self {
        // Strings and a number: nothing in it can fail.
        let mut json = serde_json::to_vec(head).unwrap_or_default();
        json.pop();
        Self(json)
    }

    /// Appends the event of a chunk: what [`Envelope`] says, in the same order.
    pub(crate) fn write<C: Serialize>(&self, out: &mut BytesMut, choices: &[C], usage: Option<Usage>) {
        write_data_behind(out, &self.0, &ChunkTail { choices, usage });
    }
}

#[derive(Debug, Serialize)]
struct ChunkTail<'a, C> {
    /// Empty in the chunk that brings `usage`.
    choices: &'a [C],
    /// `null` in all chunks but that one.
    usage: Option<Usage>,
}

/// An answer.
#[derive(Debug, Serialize)]
pub(crate) struct Envelope<'a, C> {
    #[serde(flatten)]
    pub(crate) head: &'a Head,
    pub(crate) choices: &'a [C],
    pub(crate) usage: Option<Usage>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Usage {
    prompt_tokens: usize,
    completion_tokens: u32,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct PromptTokensDetails {
    cached_tokens: u32,
}

impl Usage {
    /// Each prompt once, whatever the number of its choices. Generated tokens up to the stop; what was computed past it
    /// is not counted.
    pub(crate) fn of(choices: &Choices) -> Self {
        let prompts = || choices.generations().iter().filter(|generation| generation.is_first_choice());
        let prompt_tokens = prompts().map(TextGeneration::num_prompt_tokens).sum();
        let cached_tokens = prompts().map(TextGeneration::num_cached_tokens).sum();
        let completion_tokens = choices.generations().iter().map(TextGeneration::num_generated_tokens).sum();
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens as usize,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }

    /// The same counts, and the times, as TGI's headers.
    pub(crate) fn add_headers(self, headers: &mut HeaderMap, choices: &Choices) {
        headers::add_timings(headers, choices.timings(), self.prompt_tokens, self.completion_tokens);
    }
}

/// An end token on the last allowed place is `stop` here.
pub(crate) fn finish_reason(finish: Finish) -> &'static str {
    if finish.end_token || finish.stop_string { "stop" } else { "length" }
}
