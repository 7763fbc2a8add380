//! TGI's answers: which keys are there as `null`, which are left out, what the headers say.

use axum::http::{HeaderMap, HeaderValue};
use bytes::BytesMut;
use forebay_text::Tokenizer;
use serde::Serialize;

use super::request::Options;
use crate::error::{ApiError, Dialect};
use crate::generate::{Finish, TextGeneration, TextStep};
use crate::sse::{EventWriter, write_data};

/// A whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct GenerateResponse {
    generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

#[derive(Debug, Serialize)]
struct Details {
    finish_reason: &'static str,
    generated_tokens: u32,
    seed: Option<u64>,
    prefill: Vec<PrefillToken>,
    tokens: Vec<Token>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<Vec<Token>>,
}

/// One streamed event. `generated_text` and `details` are there as `null` until the last.
#[derive(Debug, Serialize)]
struct StreamEvent {
    index: u32,
    token: Token,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<Token>,
    generated_text: Option<String>,
    details: Option<StreamDetails>,
}

#[derive(Debug, Serialize)]
struct StreamDetails {
    finish_reason: &'static str,
    generated_tokens: u32,
    seed: Option<u64>,
    input_length: usize,
}

#[derive(Debug, Serialize)]
struct Token {
    id: u32,
    text: String,
    /// `null` where it is not finite: truncation can leave an alternative without any probability.
    logprob: Option<f32>,
    special: bool,
}

#[derive(Debug, Serialize)]
struct PrefillToken {
    id: u32,
    text: String,
    /// `null` for the first: nothing comes before it.
    logprob: Option<f32>,
}

/// Reads a generation to its end.
pub(crate) async fn whole(
    mut generation: TextGeneration,
    options: Options,
    mut headers: HeaderMap,
) -> Result<(HeaderMap, GenerateResponse), ApiError> {
    let mut text = opening_text(&generation, options);
    let (mut tokens, mut top_tokens) = (Vec::new(), Vec::new());
    let mut finish = Finish::default();
    while let Some(step) = generation.next().await {
        let step = step?;
        text.push_str(visible_text(&step));
        finish = step.finish.unwrap_or_default();
        if options.details {
            top_tokens.extend(options.top_n_tokens.then(|| alternatives(&step, generation.tokenizer())));
            tokens.push(Token::of_step(step, generation.tokenizer()));
        }
    }
    add_timings(&mut headers, &generation);
    let details = options.details.then(|| Details {
        finish_reason: finish_reason(finish),
        generated_tokens: generation.num_generated_tokens(),
        seed: generation.seed(),
        prefill: if options.decoder_input_details { prefill(&generation) } else { Vec::new() },
        tokens,
        top_tokens,
    });
    Ok((headers, GenerateResponse { generated_text: text, details }))
}

/// The prompt, if it is to stand before the generated text.
fn opening_text(generation: &TextGeneration, options: Options) -> String {
    if options.return_full_text { generation.prompt().text.clone() } else { String::new() }
}

/// What the token adds to `generated_text`. A special token adds nothing, not even the mark of a character that it cut
/// off: clients leave its text out, and what they then hold must be `generated_text`.
fn visible_text(step: &TextStep) -> &str {
    if step.special { "" } else { &step.text }
}

/// TGI tests the length first: an end token on the last allowed place is `length`.
fn finish_reason(finish: Finish) -> &'static str {
    if finish.length {
        "length"
    } else if finish.end_token {
        "eos_token"
    } else {
        "stop_sequence"
    }
}

fn prefill(generation: &TextGeneration) -> Vec<PrefillToken> {
    let mut logprobs = vec![None; generation.prompt().ids.len()];
    for scored in generation.prompt_logprobs() {
        if let Some(logprob) = logprobs.get_mut(scored.position as usize) {
            *logprob = finite(scored.logprobs.logprob);
        }
    }
    let tokenizer = generation.tokenizer();
    let ids = generation.prompt().ids.iter();
    ids.zip(logprobs).map(|(&id, logprob)| PrefillToken { id, text: tokenizer.token_text(id), logprob }).collect()
}

fn alternatives(step: &TextStep, tokenizer: &Tokenizer) -> Vec<Token> {
    let top = step.logprobs.as_ref().map_or(&[][..], |logprobs| &logprobs.top);
    top.iter().map(|&(id, logprob)| Token::alone(id, logprob, tokenizer)).collect()
}

impl Token {
    /// A special token shows its name, any other the text that it made visible.
    fn of_step(step: TextStep, tokenizer: &Tokenizer) -> Self {
        let text = if step.special { tokenizer.token_text(step.token_id) } else { step.text };
        let logprob = step.logprobs.and_then(|logprobs| finite(logprobs.logprob));
        Self { id: step.token_id, text, logprob, special: step.special }
    }

    fn alone(id: u32, logprob: f32, tokenizer: &Tokenizer) -> Self {
        Self { id, text: tokenizer.token_text(id), logprob: finite(logprob), special: tokenizer.is_special(id) }
    }
}

fn finite(logprob: f32) -> Option<f32> {
    logprob.is_finite().then_some(logprob)
}

/// TGI's units: `x-compute-time` in seconds with a fraction, the others in whole milliseconds.
fn add_timings(headers: &mut HeaderMap, generation: &TextGeneration) {
    let timings = generation.timings();
    if let Ok(seconds) = HeaderValue::from_str(&timings.total.as_secs_f64().to_string()) {
        headers.insert("x-compute-time", seconds);
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
    headers.insert("x-prompt-tokens", generation.num_prompt_tokens().into());
    headers.insert("x-generated-tokens", generation.num_generated_tokens().into());
}

/// Writes TGI's stream: one event a token, no mark at the end.
pub(crate) struct NativeWriter {
    options: Options,
    text: String,
}

impl NativeWriter {
    pub(crate) fn new(generation: &TextGeneration, options: Options) -> Self {
        Self { options, text: opening_text(generation, options) }
    }
}

impl EventWriter for NativeWriter {
    fn begin(&mut self, _out: &mut BytesMut) {}

    fn step(&mut self, step: TextStep, generation: &TextGeneration, out: &mut BytesMut) {
        self.text.push_str(visible_text(&step));
        let finish = step.finish;
        let details = finish.filter(|_| self.options.details).map(|finish| StreamDetails {
            finish_reason: finish_reason(finish),
            generated_tokens: generation.num_generated_tokens(),
            seed: generation.seed(),
            input_length: generation.num_prompt_tokens(),
        });
        let event = StreamEvent {
            index: generation.num_generated_tokens(),
            top_tokens: alternatives(&step, generation.tokenizer()),
            token: Token::of_step(step, generation.tokenizer()),
            generated_text: finish.map(|_| std::mem::take(&mut self.text)),
            details,
        };
        write_data(out, &event);
    }

    fn error(&mut self, error: &ApiError, out: &mut BytesMut) {
        write_data(out, &error.body(Dialect::Native));
    }
}
