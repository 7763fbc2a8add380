//! Log-probabilities in OpenAI's two shapes: a list of objects (chat) and parallel lists (completions).

use forebay_text::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::text_generation::TextStep;

/// What OpenAI writes for a probability of zero: JSON has no infinity.
const ZERO_PROBABILITY: f32 = -9999.0;

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
    pub(crate) fn push(&mut self, step: &TextStep, tokenizer: &Tokenizer) {
        let Some(logprobs) = &step.logprobs else { return };
        let token = ScoredToken::new(step.token_id, logprobs.logprob, tokenizer);
        let top = logprobs.top.iter().map(|&(id, logprob)| ScoredToken::new(id, logprob, tokenizer));
        self.content.push(ChatLogprob { token, top_logprobs: top.collect() });
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
    token_logprobs: Vec<f32>,
    /// The best alternatives and the chosen token itself.
    top_logprobs: Vec<Map<String, Value>>,
    /// Where the token's text begins, in characters of the answer.
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    pub(crate) fn push(&mut self, step: &TextStep, text_offset: usize, tokenizer: &Tokenizer) {
        let Some(logprobs) = &step.logprobs else { return };
        let chosen = (step.token_id, logprobs.logprob);
        let all = logprobs.top.iter().copied().chain([chosen]);
        self.top_logprobs.push(all.map(|(id, logprob)| (tokenizer.token_text(id), finite(logprob).into())).collect());
        self.tokens.push(tokenizer.token_text(step.token_id));
        self.token_logprobs.push(finite(logprobs.logprob));
        self.text_offset.push(text_offset);
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { ZERO_PROBABILITY }
}
