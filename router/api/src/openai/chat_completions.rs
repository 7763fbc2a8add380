//! `POST /v1/chat/completions`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::BytesMut;
use forebay_text::ChatInputs;
use serde::Serialize;
use serde_json::{Map, Value};

use super::logprobs::{ChatLogprobs, HeldLogprobs};
use super::messages;
use super::prompt_logprobs::PromptLogprobs;
use super::request::{COMMON, Common, JsonBody, Wanted, at_most};
use super::response::{ChunkHead, Envelope, Head, Usage, finish_reason};
use super::sampling_fields::SAMPLING;
use crate::choices::Choices;
use crate::error::{ApiError, Dialect, OpenAiError};
use crate::fields::{self, Body, Fields, Served};
use crate::generate::{Job, Prompt, generate};
use crate::headers;
use crate::schema::{boolean, integer, object};
use crate::sse::{self, EventWriter, write_data, write_done};
use crate::state::AppState;
use crate::telemetry::RequestRecord;
use crate::text_generation::{TextGeneration, TextStep};

const MAX_TOP_LOGPROBS: u32 = 20;

pub(super) const BODY: Body = Body {
    prefix: "",
    required: &["messages"],
    served: &[OWN, COMMON, SAMPLING],
    unserved: &[fields::OPENAI, fields::CHAT],
};

const OWN: &[Served] = &[
    ("messages", |_| messages::schema(), "The conversation; the model's chat template makes the prompt of it."),
    (
        "max_tokens",
        |_| integer().at_least(1),
        "Generate so many tokens at most; by default, as many as fit into the model's context.",
    ),
    ("max_completion_tokens", |_| integer().at_least(1), "The newer name of `max_tokens`."),
    ("logprobs", |_| boolean().by_default(false), "Tell each token's log-probability."),
    (
        "top_logprobs",
        |_| integer().at_least(0).at_most(MAX_TOP_LOGPROBS).by_default(0),
        "Tell so many of the likeliest tokens at each position; only beside `logprobs`.",
    ),
    (
        "add_generation_prompt",
        |_| boolean(),
        "Let the template open the assistant's next message. By default it does, unless the last message is continued.",
    ),
    (
        "continue_final_message",
        |_| boolean(),
        "Go on with the last message, which must be the assistant's. By default, if it is.",
    ),
    ("chat_template_kwargs", |_| object().by_default(Map::new()), "Further variables for the chat template."),
];

pub(crate) fn router() -> Router<AppState> {
    Router::new().route("/v1/chat/completions", post(handler))
}

pub(crate) async fn handler(State(state): State<AppState>, body: JsonBody) -> Result<Response, OpenAiError> {
    let mut record = RequestRecord::begin();
    let (common, job) = record.check(ChatRequest::parse(&state, body).and_then(ChatRequest::into_job))?;
    let with_logprobs = job.logprobs.is_some();
    let choices = generate(&state, job, record).await?;
    if common.stream {
        let head = ChunkHead::new(&Head::new(&state, "chatcmpl", "chat.completion.chunk", common.model));
        let held = choices.generations().iter().map(|_| HeldLogprobs::default()).collect();
        let writer = ChatWriter { head, with_logprobs, include_usage: common.include_usage, held };
        return Ok(sse::response(&state, choices, writer)?);
    }
    let head = Head::new(&state, "chatcmpl", "chat.completion", common.model);
    let headers = headers::compute(&state, &choices)?;
    Ok(whole(&head, choices, with_logprobs, common.num_prompt_logprobs, headers).await?)
}

/// A request's body, checked.
pub(crate) struct ChatRequest {
    pub(crate) common: Common,
    pub(crate) inputs: ChatInputs,
    num_top_logprobs: Option<u32>,
}

impl ChatRequest {
    pub(crate) fn parse(state: &AppState, body: JsonBody) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body, state.limits().max_body_bytes, &BODY)?;
        let common = Common::take(&mut fields, state, false)?;
        let inputs = take_inputs(&mut fields)?;
        let num_top_logprobs = take_logprobs(&mut fields)?;
        fields.finish()?;
        Ok(Self { common, inputs, num_top_logprobs })
    }

    pub(crate) fn wants_logprobs(&self) -> bool {
        self.num_top_logprobs.is_some()
    }

    pub(crate) fn into_job(self) -> Result<(Common, Job), ApiError> {
        let Self { mut common, inputs, num_top_logprobs } = self;
        let (num_choices, num_prompt_logprobs) = (("n", common.n), common.num_prompt_logprobs);
        let wanted = Wanted { echo: false, num_choices, num_top_logprobs, num_prompt_logprobs };
        let job = common.job(vec![Prompt::Chat(Box::new(inputs))], wanted)?;
        Ok((common, job))
    }
}

fn take_inputs(fields: &mut Fields) -> Result<ChatInputs, ApiError> {
    let messages = messages::normalize(fields.require::<Vec<Map<String, Value>>>("messages")?)?;
    let continues: Option<bool> = fields.take("continue_final_message")?;
    let opens: Option<bool> = fields.take("add_generation_prompt")?;
    // Unless the request says it, the last message decides, but opening a message says that none is continued.
    let continues = continues.unwrap_or_else(|| opens != Some(true) && messages::ends_with_assistant(&messages));
    let opens = opens.unwrap_or(!continues);
    if continues && opens {
        let message = "`continue_final_message` and `add_generation_prompt` must not both be true";
        return Err(ApiError::validation("continue_final_message", message));
    }
    if continues && !messages::ends_with_assistant(&messages) {
        let message = "`continue_final_message` needs a last message of the assistant";
        return Err(ApiError::validation("continue_final_message", message));
    }
    let kwargs = fields.take("chat_template_kwargs")?.unwrap_or_default();
    Ok(ChatInputs { messages, tools: None, add_generation_prompt: opens, continue_final_message: continues, kwargs })
}

/// How many alternatives to each token; `None` if log-probabilities are not asked for at all.
fn take_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted = fields.take("logprobs")?.unwrap_or(false);
    let num_top = at_most("top_logprobs", fields.take("top_logprobs")?.unwrap_or(0), MAX_TOP_LOGPROBS)?;
    if num_top > 0 && !wanted {
        return Err(ApiError::validation("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
    }
    Ok(wanted.then_some(num_top))
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

/// A whole answer.
#[derive(Debug, Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    envelope: Envelope<'a, Choice>,
    /// All choices have the same prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
}

#[derive(Debug, Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

/// The role stands in every delta: `huggingface_hub` needs it there, the others do not mind.
#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: String,
}

impl Message {
    fn assistant(content: String) -> Self {
        Self { role: "assistant", content }
    }
}

async fn whole(
    head: &Head,
    mut choices: Choices,
    with_logprobs: bool,
    num_prompt_logprobs: Option<u32>,
    mut headers: HeaderMap,
) -> Result<Response, ApiError> {
    let empty = |generation: &TextGeneration| Choice {
        index: generation.index(),
        message: Message::assistant(String::new()),
        logprobs: with_logprobs.then(ChatLogprobs::default),
        finish_reason: None,
    };
    let mut answers: Vec<Choice> = choices.generations().iter().map(empty).collect();
    let mut held: Vec<HeldLogprobs> = answers.iter().map(|_| HeldLogprobs::default()).collect();
    while let Some(next) = choices.next().await {
        let (mut step, generation) = next?;
        let answer = &mut answers[generation.index()];
        answer.message.content.push_str(&step.text);
        if let Some(logprobs) = &mut answer.logprobs {
            logprobs.extend(held[generation.index()].push(&mut step), generation.tokenizer());
        }
        answer.finish_reason = step.finish.map(finish_reason);
    }
    let usage = Usage::of(&choices);
    let envelope = Envelope { head, choices: &answers, usage: Some(usage) };
    let first = choices.generations().first().zip(num_prompt_logprobs);
    let prompt_logprobs = first.map(|(generation, num_top)| PromptLogprobs::of(generation, num_top));
    usage.add_headers(&mut headers, &choices);
    Ok((headers, Json(Whole { envelope, prompt_logprobs })).into_response())
}

struct ChatWriter {
    head: ChunkHead,
    with_logprobs: bool,
    include_usage: bool,
    /// Of each choice.
    held: Vec<HeldLogprobs>,
}

impl ChatWriter {
    fn write(&self, out: &mut BytesMut, choices: &[ChunkChoice], usage: Option<Usage>) {
        self.head.write(out, choices, usage);
    }
}

impl EventWriter for ChatWriter {
    fn begin(&mut self, choices: &Choices, out: &mut BytesMut) {
        for generation in choices.generations() {
            let delta = Message::assistant(String::new());
            let index = generation.index();
            self.write(out, &[ChunkChoice { index, delta, logprobs: None, finish_reason: None }], None);
        }
    }

    fn step(&mut self, mut step: TextStep, generation: &TextGeneration, out: &mut BytesMut) {
        let reason = step.finish.map(finish_reason);
        let shown = self.held[generation.index()].push(&mut step);
        if !(step.text.is_empty() && shown.is_empty() && reason.is_none()) {
            let mut logprobs = self.with_logprobs.then(ChatLogprobs::default);
            if let Some(logprobs) = &mut logprobs {
                logprobs.extend(shown, generation.tokenizer());
            }
            let delta = Message::assistant(step.text);
            self.write(out, &[ChunkChoice { index: generation.index(), delta, logprobs, finish_reason: reason }], None);
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
