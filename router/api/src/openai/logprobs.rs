//! Log-probabilities in OpenAI's two shapes: a list of objects (chat) and parallel lists (completions).

use std::collections::VecDeque;

use forebay_engine::TokenLogprobs;
use forebay_text::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::text_generation::{EncodedPrompt, TextStep};

/// What OpenAI writes for a probability of zero: JSON has no infinity.
const ZERO_PROBABILITY: f32 = -9999.0;

/// A token whose text is shown.
#[derive(Debug)]
pub(crate) struct ShownToken {
    id: u32,
    /// Where its text begins in the generated text, in characters.
    offset: usize,
    logprobs: TokenLogprobs,
}

/// One choice's tokens of which no text is shown yet: while it may be the beginning of a stop, so may they. Of a text
/// that ends before a stop the tokens from there on are never shown.
#[derive(Debug, Default)]
pub(crate) struct HeldLogprobs {
    held: VecDeque<ShownToken>,
    /// Characters.
    num_shown: usize,
}

impl HeldLogprobs {
    /// Takes a step with its log-probabilities; answers the tokens that come with its text, in order.
    pub(crate) fn push(&mut self, step: &mut TextStep) -> Vec<ShownToken> {
        self.num_shown += step.text.chars().count();
        let (id, offset) = (step.token_id, step.offset);
        self.held.extend(step.logprobs.take().map(|logprobs| ShownToken { id, offset, logprobs }));
        let num_shown = match step.finish {
            // An end token has no text, nor do half characters at the end.
            Some(finish) if !finish.stop_string => self.held.len(),
            _ => self.held.partition_point(|token| token.offset < self.num_shown),
        };
        self.held.drain(..num_shown).collect()
    }
}

/// Of one chunk or answer, one entry a token.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatLogprob>,
}

#[derive(Debug, Serialize)]
struct ChatLogprob {
    #[serde(flatten)]
    token: ScoredToken,
    top_logprobs: Vec<ScoredToken>,
}

#[derive(Debug, Serialize)]
struct ScoredToken {
    token: String,
    logprob: f32,
    /// Of a half character only these are exact.
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    pub(crate) fn extend(&mut self, tokens: Vec<ShownToken>, tokenizer: &Tokenizer) {
        self.content.extend(tokens.into_iter().map(|ShownToken { id, logprobs, .. }| {
            let token = ScoredToken::new(id, logprobs.logprob, tokenizer);
            let top = logprobs.top.iter().map(|&(id, logprob)| ScoredToken::new(id, logprob, tokenizer));
            ChatLogprob { token, top_logprobs: top.collect() }
        }));
    }
}

impl ScoredToken {
    fn new(id: u32, logprob: f32, tokenizer: &Tokenizer) -> Self {
        let token = tokenizer.token_text(id);
        let bytes = if tokenizer.is_special(id) { token.clone().into_bytes() } else { tokenizer.token_bytes(id) };
        Self { token, logprob: finite(logprob), bytes }
    }
}

/// Of one chunk or answer; the lists run parallel.
#[derive(Debug, Default, Serialize)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    /// `null` for the first token of a prompt: nothing comes before it.
    token_logprobs: Vec<Option<f32>>,
    /// The best alternatives and the token itself.
    top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where the token's text begins, in characters of the answer.
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Takes a prompt that stands before the generated text, with `num_top` alternatives to each token.
    pub(crate) fn extend_by_prompt(&mut self, prompt: &EncodedPrompt, num_top: u32, tokenizer: &Tokenizer) {
        for ((id, scored), &start) in prompt.tokens().zip(&prompt.starts) {
            let logprobs = scored.map(|scored| &scored.logprobs);
            self.push(id, logprobs, num_top as usize, start, tokenizer);
        }
    }

    /// Takes generated tokens, before whose text there are `num_before` characters of a prompt.
    pub(crate) fn extend(&mut self, tokens: Vec<ShownToken>, num_before: usize, tokenizer: &Tokenizer) {
        for ShownToken { id, offset, logprobs } in tokens {
            self.push(id, Some(&logprobs), logprobs.top.len(), num_before + offset, tokenizer);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn push(&mut self, id: u32, logprobs: Option<&TokenLogprobs>, num_top: usize, start: usize, tokenizer: &Tokenizer) {
        self.tokens.push(token_name(id, tokenizer));
        self.token_logprobs.push(logprobs.map(|logprobs| finite(logprobs.logprob)));
        self.top_logprobs.push(logprobs.map(|logprobs| {
            let all = logprobs.top.iter().take(num_top).copied().chain([(id, logprobs.logprob)]);
            all.map(|(id, logprob)| (token_name(id, tokenizer), finite(logprob).into())).collect()
        }));
        self.text_offset.push(start);
    }
}

/// The token's text, or its bytes as OpenAI writes half characters: alternatives go by this, so that each needs its own.
fn token_name(id: u32, tokenizer: &Tokenizer) -> String {
    String::from_utf8(tokenizer.token_bytes(id)).unwrap_or_else(|error| {
        let bytes = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
        format!("bytes:{}", bytes.collect::<String>())
    })
}

pub(super) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { ZERO_PROBABILITY }
}
