//! The fields that chat completions and completions share.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use forebay_wire::v1::LogprobsKind;
use serde_json::{Map, Value};

use super::prompt_logprobs::{PROMPT_LOGPROBS, take_prompt_logprobs};
use super::sampling_fields::take_sampling;
use crate::choices::MAX_CHOICES;
use crate::error::{ApiError, Dialect};
use crate::fields::{Accept, Body, Fields, Served};
use crate::generate::{Job, Prompt, StopText};
use crate::sampling::{self, Logprobs, Sampling};
use crate::schema::{any_of, boolean, integer, list, string};
use crate::state::AppState;
use crate::validation;

/// What a JSON handler is handed.
pub(crate) type JsonBody = Result<Json<Map<String, Value>>, JsonRejection>;

/// The name that TGI's clients send for "the model that is served".
const ANY_MODEL: &str = "tgi";

/// What each route asks for in its own way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Each prompt is shown before its answers.
    pub(crate) echo: bool,
    /// Generated of each prompt, by the name of the field that says so.
    pub(crate) num_choices: (&'static str, u32),
    /// Alternatives to each generated token, if their log-probabilities are wanted at all.
    pub(crate) num_top_logprobs: Option<u32>,
    /// Alternatives to each prompt token, if their log-probabilities are wanted at all.
    pub(crate) num_prompt_logprobs: Option<u32>,
}

/// The fields of [`Common`] that do not choose tokens.
pub(crate) const COMMON: &[Served] = &[
    (
        "model",
        |_| string().by_default(ANY_MODEL),
        "Any name is taken and echoed; `tgi` stands for the name of the model that is served.",
    ),
    ("stream", |_| boolean().by_default(false), "Answer token by token, ended by `[DONE]`."),
    ("stream_options", |limits| STREAM_OPTIONS.schema(limits), "Only beside `stream`."),
    (
        "n",
        |_| integer().at_least(1).at_most(MAX_CHOICES).by_default(1),
        "Choices for each prompt; together with the prompts, no more than one prompt may have.",
    ),
    PROMPT_LOGPROBS,
    ("min_tokens", |_| integer().at_least(0).by_default(0), "End tokens cannot be chosen before so many others."),
    ("ignore_eos", |_| boolean().by_default(false), "Go on after an end token, up to `max_tokens`."),
    (
        "stop",
        |limits| any_of([string().not_empty(), list(string().not_empty()).at_most_items(limits.max_stop_sequences)]),
        "Strings before which the text ends.",
    ),
    (
        "stop_token_ids",
        |_| list(integer().at_least(0)).by_default(Vec::<Value>::new()),
        "Further tokens that end the text; ids of the model's vocabulary.",
    ),
    ("include_stop_str_in_output", |_| boolean().by_default(false), "Keep the string that ended the text."),
    ("skip_special_tokens", |_| boolean().by_default(true), "Leave special tokens out of the text."),
    (
        "add_special_tokens",
        |_| boolean(),
        "Let the tokenizer put the model's special tokens before the prompt. By default it does for a text, not for a \
         chat, whose template writes them.",
    ),
];

const STREAM_OPTIONS: Body = Body {
    prefix: "stream_options.",
    required: &[],
    served: &[&[(
        "include_usage",
        |_| boolean().by_default(false),
        "Count tokens in a chunk of its own before the end.",
    )]],
    // Padding against eavesdroppers that measure chunk lengths.
    unserved: &[&[("include_obfuscation", Accept::Bool(false))]],
};

/// Shared options, checked.
#[derive(Debug)]
pub(crate) struct Common {
    /// To be echoed.
    pub(crate) model: String,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// Answers to each prompt.
    pub(crate) n: u32,
    /// Alternatives to each prompt token, if their log-probabilities are wanted at all.
    pub(crate) num_prompt_logprobs: Option<u32>,
    max_tokens: Option<u32>,
    min_tokens: u32,
    ignore_eos: bool,
    sampling: Sampling,
    stops: Vec<String>,
    stop_token_ids: Vec<u32>,
    stop_text: StopText,
    skip_special_tokens: bool,
    pub(crate) add_special_tokens: Option<bool>,
}

impl Common {
    /// `may_be_zero`: the bound on generated tokens.
    pub(crate) fn take(fields: &mut Fields, state: &AppState, may_be_zero: bool) -> Result<Self, ApiError> {
        let stream = fields.take("stream")?.unwrap_or(false);
        let max_tokens = take_max_tokens(fields, may_be_zero)?;
        let include_stop = fields.take("include_stop_str_in_output")?.unwrap_or(false);
        Ok(Self {
            model: take_model(fields, state)?,
            stream,
            include_usage: take_include_usage(fields, stream)?,
            n: take_n(fields)?,
            num_prompt_logprobs: take_prompt_logprobs(fields, stream)?,
            max_tokens,
            min_tokens: take_min_tokens(fields, max_tokens)?,
            ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
            sampling: take_sampling(fields, state)?,
            stops: take_stops(fields, state)?,
            stop_token_ids: take_stop_token_ids(fields, state)?,
            stop_text: if include_stop { StopText::Keep } else { StopText::Trim },
            skip_special_tokens: fields.take("skip_special_tokens")?.unwrap_or(true),
            add_special_tokens: fields.take("add_special_tokens")?,
        })
    }

    /// The generations that are asked for. Log-probabilities are the model's own here.
    pub(crate) fn job(&mut self, prompts: Vec<Prompt>, wanted: Wanted) -> Result<Job, ApiError> {
        let Wanted { echo, num_choices: (name, num_choices), num_top_logprobs, num_prompt_logprobs } = wanted;
        let num_all_choices = prompts.len() as u64 * u64::from(num_choices);
        if num_all_choices > u64::from(MAX_CHOICES) {
            let message =
                format!("`{name}` choices of all prompts must be at most {MAX_CHOICES}. Given: {num_all_choices}");
            return Err(ApiError::validation(name, message));
        }
        let logprobs = num_top_logprobs.map(|num_top| Logprobs { kind: LogprobsKind::Raw, num_top, top_ties: false });
        Ok(Job {
            dialect: Dialect::OpenAi,
            prompts,
            echo,
            num_choices,
            add_special_tokens: self.add_special_tokens,
            truncate: None,
            max_new_tokens: self.max_tokens,
            min_new_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
            stop_token_ids: std::mem::take(&mut self.stop_token_ids),
            sampling: std::mem::take(&mut self.sampling),
            stops: std::mem::take(&mut self.stops),
            stop_text: self.stop_text,
            skip_special_tokens: self.skip_special_tokens,
            logprobs,
            prompt_logprobs: num_prompt_logprobs,
        })
    }
}

fn take_n(fields: &mut Fields) -> Result<u32, ApiError> {
    match fields.take::<u32>("n")?.unwrap_or(1) {
        n if (1..=MAX_CHOICES).contains(&n) => Ok(n),
        n => Err(ApiError::validation("n", format!("`n` must be between 1 and {MAX_CHOICES}. Given: {n}"))),
    }
}

/// Any name is tolerated and echoed; `tgi` or none gets the real one.
fn take_model(fields: &mut Fields, state: &AppState) -> Result<String, ApiError> {
    match fields.take::<String>("model")? {
        Some(name) if name != ANY_MODEL => Ok(name),
        _ => Ok(state.model()?.id.clone()),
    }
}

/// `max_tokens` is the older name of `max_completion_tokens`. Absent, the answer may fill the context.
fn take_max_tokens(fields: &mut Fields, may_be_zero: bool) -> Result<Option<u32>, ApiError> {
    let old = fields.take::<u32>("max_tokens")?;
    let new = fields.take::<u32>("max_completion_tokens")?;
    if old.is_some() && new.is_some() && old != new {
        let message = "`max_tokens` and `max_completion_tokens` are two names of one bound and must not differ";
        return Err(ApiError::validation("max_completion_tokens", message));
    }
    match new.or(old) {
        Some(0) if !may_be_zero => {
            let name = if new.is_some() { "max_completion_tokens" } else { "max_tokens" };
            Err(ApiError::validation(name, format!("`{name}` must be strictly positive")))
        }
        bound => Ok(bound),
    }
}

fn take_min_tokens(fields: &mut Fields, max_tokens: Option<u32>) -> Result<u32, ApiError> {
    let min_tokens = fields.take::<u32>("min_tokens")?.unwrap_or(0);
    match max_tokens {
        Some(max) if min_tokens > max => {
            let message = format!("`min_tokens` must not be greater than `max_tokens`. Given: {min_tokens} and {max}");
            Err(ApiError::validation("min_tokens", message))
        }
        _ => Ok(min_tokens),
    }
}

fn take_include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = fields.take::<Map<String, Value>>("stream_options")? else { return Ok(false) };
    if !stream {
        let message = "`stream_options` is only allowed when `stream` is true";
        return Err(ApiError::validation("stream_options", message));
    }
    let mut options = Fields::of_object(options, &STREAM_OPTIONS);
    let include_usage = options.take("include_usage")?.unwrap_or(false);
    options.finish()?;
    Ok(include_usage)
}

fn take_stops(fields: &mut Fields, state: &AppState) -> Result<Vec<String>, ApiError> {
    let stops = match fields.take::<Value>("stop")? {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop],
        Some(list) => serde_json::from_value(list).map_err(|error| {
            ApiError::wrong_type("stop", format!("`stop` must be a string or a list of strings: {error}"))
        })?,
    };
    validation::stop_strings(&stops, state.limits().max_stop_sequences)?;
    Ok(stops)
}

fn take_stop_token_ids(fields: &mut Fields, state: &AppState) -> Result<Vec<u32>, ApiError> {
    const NAME: &str = "stop_token_ids";
    let ids = fields.take::<Vec<u32>>(NAME)?.unwrap_or_default();
    if ids.is_empty() {
        return Ok(ids);
    }
    sampling::token_ids(NAME, ids, state.worker_info()?.vocab_size)
}

/// `limit` at most, by OpenAI's rules.
pub(crate) fn at_most(name: &str, value: u32, limit: u32) -> Result<u32, ApiError> {
    if value <= limit {
        return Ok(value);
    }
    Err(ApiError::validation(name, format!("`{name}` must be between 0 and {limit}. Given: {value}")))
}
