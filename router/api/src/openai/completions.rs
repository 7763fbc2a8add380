//! `POST /v1/completions`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::BytesMut;
use serde::Serialize;
use serde_json::Value;

use super::logprobs::{CompletionLogprobs, HeldLogprobs};
use super::prompt_logprobs::PromptLogprobs;
use super::request::{COMMON, Common, JsonBody, Wanted, at_most};
use super::response::{ChunkHead, Envelope, Head, Usage, finish_reason};
use super::sampling_fields::SAMPLING;
use crate::choices::{Choices, MAX_CHOICES};
use crate::error::{ApiError, Dialect, OpenAiError};
use crate::fields::{self, Body, Fields, Served};
use crate::generate::{Job, Prompt, generate};
use crate::headers;
use crate::schema::{Schema, any_of, boolean, integer, list, string};
use crate::sse::{self, EventWriter, write_data, write_done};
use crate::state::{AppState, Limits};
use crate::telemetry::RequestRecord;
use crate::text_generation::{TextGeneration, TextStep};

const MAX_LOGPROBS: u32 = 5;

pub(super) const BODY: Body = Body {
    prefix: "",
    required: &["prompt"],
    served: &[OWN, COMMON, SAMPLING],
    unserved: &[fields::OPENAI, fields::COMPLETIONS],
};

const OWN: &[Served] = &[
    ("prompt", prompt_schema, "A text or its token ids, or several of these."),
    (
        "max_tokens",
        |_| integer().at_least(0),
        "Generate so many tokens at most; none only with `echo`. By default, as many as fit into the model's context.",
    ),
    ("max_completion_tokens", |_| integer().at_least(0), "The newer name of `max_tokens`."),
    ("echo", |_| boolean().by_default(false), "Put the prompt before the text, with its log-probabilities if asked."),
    (
        "best_of",
        |_| integer().at_least(1).at_most(MAX_CHOICES),
        "Generate so many texts for each prompt and answer the likeliest `n`; by default `n`. More cannot be streamed.",
    ),
    (
        "logprobs",
        |_| integer().at_least(0).at_most(MAX_LOGPROBS),
        "Tell each token's log-probability, and so many of the likeliest tokens'.",
    ),
];

fn prompt_schema(limits: &Limits) -> Schema {
    let text = || string().not_empty();
    let ids = || list(integer().at_least(0)).at_least_items(1);
    let several = list(any_of([text(), ids()])).at_least_items(1).at_most_items(limits.max_client_batch_size);
    any_of([text(), ids(), several])
}

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/v1/completions", post(handler))
}

pub(crate) async fn handler(State(state): State<AppState>, body: JsonBody) -> Result<Response, OpenAiError> {
    let mut record = RequestRecord::begin();
    let (common, job, shape) = record.check(parse(&state, body))?;
    let choices = generate(&state, job, record).await?;
    let head = Head::new(&state, "cmpl", "text_completion", common.model);
    if common.stream {
        let texts = choices.generations().iter().map(|_| ChoiceText::new(shape)).collect();
        let writer =
            CompletionWriter { head: ChunkHead::new(&head), shape, include_usage: common.include_usage, texts };
        return Ok(sse::response(&state, choices, writer)?);
    }
    let headers = headers::compute(&state, &choices)?;
    Ok(whole(&head, choices, shape, headers).await?)
}

/// What shapes the answer.
#[derive(Debug, Clone, Copy)]
struct Shape {
    echo: bool,
    num_top_logprobs: Option<u32>,
    num_prompt_logprobs: Option<u32>,
    /// Answers to each prompt, and of how many they are the best.
    n: u32,
    best_of: u32,
}

fn parse(state: &AppState, body: JsonBody) -> Result<(Common, Job, Shape), ApiError> {
    let mut fields = Fields::of_body(body, state.limits().max_body_bytes, &BODY)?;
    let echo = fields.take("echo")?.unwrap_or(false);
    let mut common = Common::take(&mut fields, state, echo)?;
    let prompts = prompts(state, fields.require("prompt")?)?;
    let num_top_logprobs = fields.take("logprobs")?.map(|n| at_most("logprobs", n, MAX_LOGPROBS)).transpose()?;
    let best_of = take_best_of(&mut fields, &common)?;
    fields.finish()?;
    let (n, num_prompt_logprobs) = (common.n, common.num_prompt_logprobs);
    let wanted = Wanted {
        echo,
        num_choices: if best_of > n { ("best_of", best_of) } else { ("n", n) },
        // The best are found by them.
        num_top_logprobs: num_top_logprobs.or((best_of > n).then_some(0)),
        num_prompt_logprobs: num_prompt_logprobs.max(num_top_logprobs.filter(|_| echo)),
    };
    let job = common.job(prompts, wanted)?;
    Ok((common, job, Shape { echo, num_top_logprobs, num_prompt_logprobs, n, best_of }))
}

/// How many are generated of each prompt: `n` if the request does not say.
fn take_best_of(fields: &mut Fields, common: &Common) -> Result<u32, ApiError> {
    let n = common.n;
    let best_of = fields.take::<u32>("best_of")?.unwrap_or(n);
    let message = if !(n..=MAX_CHOICES).contains(&best_of) {
        format!("`best_of` must be between `n`, which is {n}, and {MAX_CHOICES}. Given: {best_of}")
    } else if best_of > n && common.stream {
        format!("`best_of` greater than `n` cannot be streamed: the best are known at the end. Given: {best_of}")
    } else {
        return Ok(best_of);
    };
    Err(ApiError::validation("best_of", message))
}

/// A string, a list of token ids, or a list of either.
fn prompts(state: &AppState, value: Value) -> Result<Vec<Prompt>, ApiError> {
    match value {
        Value::Array(list) if list.first().is_some_and(|first| first.is_string() || first.is_array()) => {
            let max = state.limits().max_client_batch_size;
            if list.len() > max {
                let message = format!("`prompt` may hold up to {max} prompts. Given: {}", list.len());
                return Err(ApiError::validation("prompt", message));
            }
            list.into_iter().map(|inner| prompt(state, inner)).collect()
        }
        single => Ok(vec![prompt(state, single)?]),
    }
}

fn prompt(state: &AppState, value: Value) -> Result<Prompt, ApiError> {
    match value {
        Value::String(text) if text.is_empty() => Err(ApiError::validation("prompt", "`prompt` cannot be empty")),
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(list) if list.first().is_some_and(Value::is_number) => token_ids(state, list),
        _ => Err(wrong_prompt()),
    }
}

fn wrong_prompt() -> ApiError {
    ApiError::wrong_type("prompt", "`prompt` must be a string or a list of token ids, or a list of these".to_owned())
}

fn token_ids(state: &AppState, list: Vec<Value>) -> Result<Prompt, ApiError> {
    let ids: Vec<u32> = serde_json::from_value(Value::Array(list))
        .map_err(|error| ApiError::wrong_type("prompt", format!("`prompt`: {error}")))?;
    let vocab_size = state.worker_info()?.vocab_size;
    match ids.iter().find(|id| **id >= vocab_size) {
        None => Ok(Prompt::Ids(ids)),
        Some(id) => Err(ApiError::validation(
            "prompt",
            format!("`prompt` holds token id `{id}`; the vocabulary has {vocab_size}"),
        )),
    }
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
}

/// One choice's steps as pieces of its answer.
#[derive(Debug)]
struct ChoiceText {
    shape: Shape,
    held: HeldLogprobs,
    has_begun: bool,
    /// Characters of the prompt that stands before the generated text.
    num_before: usize,
}

impl ChoiceText {
    fn new(shape: Shape) -> Self {
        Self { shape, held: HeldLogprobs::default(), has_begun: false, num_before: 0 }
    }

    /// The text that a step shows, the first time behind the prompt if that is wanted. Its tokens go into `logprobs`.
    fn push(
        &mut self,
        mut step: TextStep,
        generation: &TextGeneration,
        logprobs: &mut Option<CompletionLogprobs>,
    ) -> String {
        let mut text = String::new();
        if self.shape.echo && !std::mem::replace(&mut self.has_begun, true) {
            text.push_str(&generation.prompt().text);
            self.num_before = text.chars().count();
            if let (Some(logprobs), Some(num_top)) = (&mut *logprobs, self.shape.num_top_logprobs) {
                logprobs.extend_by_prompt(generation.prompt(), num_top, generation.tokenizer());
            }
        }
        text.push_str(&step.text);
        let shown = self.held.push(&mut step);
        if let Some(logprobs) = logprobs {
            logprobs.extend(shown, self.num_before, generation.tokenizer());
        }
        text
    }
}

async fn whole(head: &Head, mut choices: Choices, shape: Shape, mut headers: HeaderMap) -> Result<Response, ApiError> {
    let empty = |generation: &TextGeneration| Choice {
        index: generation.index(),
        text: String::new(),
        logprobs: shape.num_top_logprobs.map(|_| CompletionLogprobs::default()),
        finish_reason: None,
        prompt_logprobs: None,
    };
    let mut answers: Vec<Choice> = choices.generations().iter().map(empty).collect();
    let mut texts: Vec<ChoiceText> = answers.iter().map(|_| ChoiceText::new(shape)).collect();
    while let Some(next) = choices.next().await {
        let (step, generation) = next?;
        let answer = &mut answers[generation.index()];
        answer.finish_reason = step.finish.map(finish_reason);
        if step.finish.is_some() {
            let num_top = shape.num_prompt_logprobs;
            answer.prompt_logprobs = num_top.map(|num_top| PromptLogprobs::of(generation, num_top));
        }
        let text = texts[generation.index()].push(step, generation, &mut answer.logprobs);
        answer.text.push_str(&text);
    }
    if shape.best_of > shape.n {
        answers = best(answers, choices.generations(), shape);
    }
    let usage = Usage::of(&choices);
    usage.add_headers(&mut headers, &choices);
    Ok((headers, Json(Envelope { head, choices: &answers, usage: Some(usage) })).into_response())
}

/// The `n` of each prompt's answers that have the highest log-probability per token, best first.
fn best(answers: Vec<Choice>, generations: &[TextGeneration], shape: Shape) -> Vec<Choice> {
    let mean = |answer: &Choice| generations[answer.index].mean_logprob();
    let (mut answers, mut kept) = (answers.into_iter(), Vec::new());
    while answers.len() > 0 {
        let mut candidates: Vec<Choice> = answers.by_ref().take(shape.best_of as usize).collect();
        candidates.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        kept.extend(candidates.into_iter().take(shape.n as usize));
    }
    for (index, answer) in kept.iter_mut().enumerate() {
        answer.index = index;
    }
    kept
}

struct CompletionWriter {
    head: ChunkHead,
    shape: Shape,
    include_usage: bool,
    /// Of each choice.
    texts: Vec<ChoiceText>,
}

impl CompletionWriter {
    fn write(&self, out: &mut BytesMut, choices: &[Choice], usage: Option<Usage>) {
        self.head.write(out, choices, usage);
    }
}

impl EventWriter for CompletionWriter {
    fn begin(&mut self, _choices: &Choices, _out: &mut BytesMut) {}

    fn step(&mut self, step: TextStep, generation: &TextGeneration, out: &mut BytesMut) {
        let index = generation.index();
        let finish_reason = step.finish.map(finish_reason);
        let mut logprobs = self.shape.num_top_logprobs.map(|_| CompletionLogprobs::default());
        let text = self.texts[index].push(step, generation, &mut logprobs);
        let has_tokens = logprobs.as_ref().is_some_and(|logprobs| !logprobs.is_empty());
        if !text.is_empty() || has_tokens || finish_reason.is_some() {
            self.write(out, &[Choice { index, text, logprobs, finish_reason, prompt_logprobs: None }], None);
        }
    }

    fn end(&mut self, choices: &Choices, out: &mut BytesMut) {
        if self.include_usage {
            self.write(out, &[], Some(Usage::of(choices)));
        }
        write_done(out);
    }

    fn error(&mut self, error: &ApiError, out: &mut BytesMut) {
        write_data(out, &error.body(Dialect::OpenAi));
    }
}
