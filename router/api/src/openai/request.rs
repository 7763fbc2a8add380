//! The fields that chat completions and completions share.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use forebay_wire::v1::LogprobsKind;
use serde_json::{Map, Value};

use crate::error::{ApiError, Dialect};
use crate::fields::Fields;
use crate::generate::{Job, Prompt, StopText};
use crate::sampling::{Logprobs, Sampling, openai};
use crate::state::AppState;
use crate::validation;

/// What a JSON handler is handed.
pub(crate) type JsonBody = Result<Json<Map<String, Value>>, JsonRejection>;

/// The name that TGI's clients send for "the model that is served".
const ANY_MODEL: &str = "tgi";

/// Shared options, checked.
#[derive(Debug)]
pub(crate) struct Common {
    /// To be echoed.
    pub(crate) model: String,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    max_tokens: Option<u32>,
    min_tokens: u32,
    ignore_eos: bool,
    sampling: Sampling,
    stops: Vec<String>,
}

impl Common {
    pub(crate) fn take(fields: &mut Fields, state: &AppState) -> Result<Self, ApiError> {
        let stream = fields.take("stream")?.unwrap_or(false);
        let max_tokens = take_max_tokens(fields)?;
        Ok(Self {
            model: take_model(fields, state)?,
            stream,
            include_usage: take_include_usage(fields, stream)?,
            max_tokens,
            min_tokens: take_min_tokens(fields, max_tokens)?,
            ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
            sampling: take_sampling(fields)?,
            stops: take_stops(fields, state)?,
        })
    }

    /// The generation that is asked for. Log-probabilities are the model's own here.
    pub(crate) fn job(&mut self, prompt: Prompt, num_top_logprobs: Option<u32>) -> Job {
        let logprobs = num_top_logprobs.map(|num_top| Logprobs { kind: LogprobsKind::Raw, num_top, top_ties: false });
        Job {
            dialect: Dialect::OpenAi,
            prompt,
            truncate: None,
            max_new_tokens: self.max_tokens,
            min_new_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
            sampling: self.sampling,
            stops: std::mem::take(&mut self.stops),
            stop_text: StopText::Trim,
            logprobs,
            prompt_logprobs: false,
        }
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
fn take_max_tokens(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let old = fields.take::<u32>("max_tokens")?;
    let new = fields.take::<u32>("max_completion_tokens")?;
    if old.is_some() && new.is_some() && old != new {
        let message = "`max_tokens` and `max_completion_tokens` are two names of one bound and must not differ";
        return Err(ApiError::validation("max_completion_tokens", message));
    }
    match new.or(old) {
        Some(0) => {
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
    let mut options = Fields::of_object(options, "stream_options.");
    let include_usage = options.take("include_usage")?.unwrap_or(false);
    // Padding against eavesdroppers that measure chunk lengths: asking for it is refused, asking for none is not.
    if options.take("include_obfuscation")?.unwrap_or(false) {
        return Err(ApiError::not_served("include_obfuscation"));
    }
    options.finish(&[])?;
    Ok(include_usage)
}

/// Temperature 0 and a nucleus of no mass are both the best token alone.
fn take_sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let temperature = openai::TEMPERATURE.check(fields.take("temperature")?)?.unwrap_or(1.0);
    let top_p = openai::TOP_P.check(fields.take("top_p")?)?.unwrap_or(1.0);
    let top_k = openai::TOP_K.check(fields.take("top_k")?)?.unwrap_or(0.0);
    let repetition_penalty = openai::REPETITION_PENALTY.check(fields.take("repetition_penalty")?)?.unwrap_or(1.0);
    Ok(Sampling {
        temperature: if top_p == 0.0 { 0.0 } else { temperature },
        top_k: top_k.max(0.0) as u32,
        top_p,
        repetition_penalty,
        seed: take_seed(fields)?,
    })
}

/// Any 64-bit integer, negative ones too.
fn take_seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(seed) = fields.take::<Value>("seed")? else { return Ok(None) };
    let bits = seed.as_u64().or_else(|| seed.as_i64().map(i64::cast_unsigned));
    bits.map(Some)
        .ok_or_else(|| ApiError::wrong_type("seed", format!("`seed` must be a 64-bit integer. Given: {seed}")))
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

/// `limit` at most, by OpenAI's rules.
pub(crate) fn at_most(name: &str, value: u32, limit: u32) -> Result<u32, ApiError> {
    if value <= limit {
        return Ok(value);
    }
    Err(ApiError::validation(name, format!("`{name}` must be between 0 and {limit}. Given: {value}")))
}
