//! `POST /v1/completions`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::BytesMut;
use serde::Serialize;
use serde_json::Value;

use super::logprobs::CompletionLogprobs;
use super::request::{Common, JsonBody, at_most};
use super::response::{Envelope, Head, Usage, finish_reason};
use crate::choices::Choices;
use crate::error::{ApiError, Dialect, OpenAiError};
use crate::fields::{self, Fields};
use crate::generate::{Job, Prompt, generate};
use crate::sse::{self, EventWriter, write_data, write_done};
use crate::state::AppState;
use crate::telemetry::RequestRecord;
use crate::text_generation::{TextGeneration, TextStep};

const MAX_LOGPROBS: u32 = 5;

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/v1/completions", post(handler))
}

async fn handler(State(state): State<AppState>, body: JsonBody) -> Result<Response, OpenAiError> {
    let mut record = RequestRecord::begin();
    let (common, job) = record.check(parse(&state, body))?;
    let with_logprobs = job.logprobs.is_some();
    let choices = generate(&state, job, record).await?;
    let head = Head::new(&state, "cmpl", "text_completion", common.model);
    if common.stream {
        let writer = CompletionWriter {
            head,
            with_logprobs,
            include_usage: common.include_usage,
            num_characters: vec![0; choices.generations().len()],
        };
        return Ok(sse::response(choices, writer));
    }
    Ok(whole(&head, choices, with_logprobs).await?)
}

fn parse(state: &AppState, body: JsonBody) -> Result<(Common, Job), ApiError> {
    let mut fields = Fields::of_body(body, state.limits().max_body_bytes)?;
    let mut common = Common::take(&mut fields, state)?;
    let prompts = prompts(state, fields.require("prompt")?)?;
    let num_top_logprobs = fields.take("logprobs")?.map(|n| at_most("logprobs", n, MAX_LOGPROBS)).transpose()?;
    fields.finish(fields::COMPLETION_FIELDS)?;
    let job = common.job(prompts, num_top_logprobs)?;
    Ok((common, job))
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
}

async fn whole(head: &Head, mut choices: Choices, with_logprobs: bool) -> Result<Response, ApiError> {
    let empty = |generation: &TextGeneration| Choice {
        index: generation.index(),
        text: String::new(),
        logprobs: with_logprobs.then(CompletionLogprobs::default),
        finish_reason: None,
    };
    let mut answers: Vec<Choice> = choices.generations().iter().map(empty).collect();
    let mut num_characters = vec![0; answers.len()];
    while let Some(next) = choices.next().await {
        let (step, generation) = next?;
        let (answer, num_characters) = (&mut answers[generation.index()], &mut num_characters[generation.index()]);
        if let Some(logprobs) = &mut answer.logprobs {
            logprobs.push(&step, *num_characters, generation.tokenizer());
        }
        *num_characters += step.text.chars().count();
        answer.text.push_str(&step.text);
        answer.finish_reason = step.finish.map(finish_reason);
    }
    Ok(Json(Envelope { head, choices: &answers, usage: Some(Usage::of(&choices)) }).into_response())
}

struct CompletionWriter {
    head: Head,
    with_logprobs: bool,
    include_usage: bool,
    /// Written so far, of each choice.
    num_characters: Vec<usize>,
}

impl CompletionWriter {
    fn write(&self, out: &mut BytesMut, choices: &[Choice], usage: Option<Usage>) {
        write_data(out, &Envelope { head: &self.head, choices, usage });
    }
}

impl EventWriter for CompletionWriter {
    fn begin(&mut self, _choices: &Choices, _out: &mut BytesMut) {}

    fn step(&mut self, step: TextStep, generation: &TextGeneration, out: &mut BytesMut) {
        let reason = step.finish.map(finish_reason);
        let mut logprobs = self.with_logprobs.then(CompletionLogprobs::default);
        let index = generation.index();
        if let Some(logprobs) = &mut logprobs {
            logprobs.push(&step, self.num_characters[index], generation.tokenizer());
        }
        self.num_characters[index] += step.text.chars().count();
        if !step.text.is_empty() || logprobs.is_some() || reason.is_some() {
            self.write(out, &[Choice { index, text: step.text, logprobs, finish_reason: reason }], None);
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
