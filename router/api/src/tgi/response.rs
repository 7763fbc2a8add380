//! TGI's answers: which keys are there as `null`, which are left out, what the headers say.

use axum::http::HeaderMap;
use bytes::BytesMut;
use forebay_text::Tokenizer;
use serde::Serialize;

use super::request::Options;
use crate::choices::Choices;
use crate::error::{ApiError, Dialect};
use crate::headers;
use crate::sse::{EventWriter, write_data};
use crate::text_generation::{Finish, TextGeneration, TextStep};

/// A whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct GenerateResponse {
    generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

impl GenerateResponse {
    pub(crate) fn has_details(&self) -> bool {
        self.details.is_some()
    }

    pub(crate) fn into_text(self) -> String {
        self.generated_text
    }
}

#[derive(Debug, Serialize)]
struct Details {
    finish_reason: &'static str,
    generated_tokens: u32,
    seed: Option<u64>,
    prefill: Vec<PrefillToken>,
    tokens: Vec<Token>,
    /// The others of `best_of`, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    best_of_sequences: Vec<BestOfSequence>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<Vec<Token>>,
}

#[derive(Debug, Serialize)]
struct BestOfSequence {
    generated_text: String,
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

/// Reads the generations to their end and answers the best.
pub(crate) async fn whole(
    mut choices: Choices,
    options: Options,
    mut headers: HeaderMap,
) -> Result<(HeaderMap, GenerateResponse), ApiError> {
    let empty = |generation| Answer { text: opening_text(generation, options), ..Answer::default() };
    let mut answers: Vec<Answer> = choices.generations().iter().map(empty).collect();
    while let Some(next) = choices.next().await {
        let (step, generation) = next?;
        answers[generation.index()].push(step, options, generation.tokenizer());
    }
    let best = best_of(choices.generations());
    let (timings, told) = (choices.timings(), &choices.generations()[best]);
    headers::add_timings(&mut headers, timings, told.num_prompt_tokens(), told.num_generated_tokens());
    let answer = answers.remove(best);
    let generated_text = answer.text.clone();
    let details = options.details.then(|| {
        let others = choices.generations().iter().filter(|generation| generation.index() != best);
        let best_of_sequences = others.zip(answers).map(|(generation, answer)| answer.sequence(generation, options));
        let best_of_sequences = best_of_sequences.collect();
        let BestOfSequence { finish_reason, generated_tokens, seed, prefill, tokens, top_tokens, .. } =
            answer.sequence(&choices.generations()[best], options);
        Details { finish_reason, generated_tokens, seed, prefill, tokens, best_of_sequences, top_tokens }
    });
    Ok((headers, GenerateResponse { generated_text, details }))
}

/// One generation as it is collected.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    tokens: Vec<Token>,
    top_tokens: Vec<Vec<Token>>,
    finish: Finish,
}

impl Answer {
    fn push(&mut self, step: TextStep, options: Options, tokenizer: &Tokenizer) {
        self.text.push_str(visible_text(&step));
        self.finish = step.finish.unwrap_or_default();
        if options.details {
            self.top_tokens.extend(options.top_n_tokens.then(|| alternatives(&step, tokenizer)));
            self.tokens.push(Token::of_step(step, tokenizer));
        }
    }

    fn sequence(self, generation: &TextGeneration, options: Options) -> BestOfSequence {
        BestOfSequence {
            generated_text: self.text,
            finish_reason: finish_reason(self.finish),
            generated_tokens: generation.num_generated_tokens(),
            seed: generation.seed(),
            prefill: if options.decoder_input_details { prefill(generation) } else { Vec::new() },
            tokens: self.tokens,
            top_tokens: self.top_tokens,
        }
    }
}

/// Where the highest log-probability per token is, as TGI chooses; the first of equals.
fn best_of(generations: &[TextGeneration]) -> usize {
    let mut best = 0;
    for (index, generation) in generations.iter().enumerate() {
        if generation.mean_logprob() > generations[best].mean_logprob() {
            best = index;
        }
    }
    best
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
    let tokens = generation.prompt().tokens().map(|(id, scored)| PrefillToken {
        id,
        text: generation.tokenizer().token_text(id),
        logprob: scored.and_then(|scored| finite(scored.logprobs.logprob)),
    });
    tokens.collect()
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

/// Writes TGI's stream: one event a token, no mark at the end.
pub(crate) struct NativeWriter {
    options: Options,
    text: String,
}

impl NativeWriter {
    /// A native stream has one choice.
    pub(crate) fn new(choices: &Choices, options: Options) -> Self {
        let text = choices.generations().iter().map(|generation| opening_text(generation, options)).collect();
        Self { options, text }
    }
}

impl EventWriter for NativeWriter {
    fn begin(&mut self, _choices: &Choices, _out: &mut BytesMut) {}

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

    fn end(&mut self, _choices: &Choices, _out: &mut BytesMut) {}

    fn error(&mut self, error: &ApiError, out: &mut BytesMut) {
        write_data(out, &error.body(Dialect::Native));
    }
}
