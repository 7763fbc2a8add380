//! How tokens are chosen, as `OpenAI`'s bodies and their common extensions (vLLM's names) say it.

use serde_json::Value;

use crate::error::ApiError;
use crate::fields::{Fields, Served};
use crate::sampling::{self, Sampling, openai};
use crate::schema::{integer, list};
use crate::state::AppState;

/// The fields that are taken here.
pub(super) const SAMPLING: &[Served] = &[
    (
        "temperature",
        |_| openai::TEMPERATURE.schema().by_default(1.0),
        "What logits are divided by before sampling; 0 takes the likeliest token each time.",
    ),
    (
        "top_p",
        |_| openai::TOP_P.schema().by_default(1.0),
        "Sample among the likeliest tokens that together have this probability.",
    ),
    (
        "top_k",
        |_| openai::TOP_K.schema().by_default(0),
        "Sample among so many of the likeliest tokens; 0 and -1 among all.",
    ),
    (
        "typical_p",
        |_| openai::TYPICAL_P.schema().by_default(1.0),
        "Sample among the most typical tokens that together have this probability.",
    ),
    (
        "min_p",
        |_| openai::MIN_P.schema().by_default(0.0),
        "Sample among tokens that have at least this part of the likeliest token's probability.",
    ),
    (
        "repetition_penalty",
        |_| openai::REPETITION_PENALTY.schema().by_default(1.0),
        "What makes tokens of prompt and text less likely, if above 1.",
    ),
    (
        "frequency_penalty",
        |_| openai::FREQUENCY_PENALTY.schema().by_default(0.0),
        "Subtracted from a token's logit as often as the text holds it.",
    ),
    (
        "presence_penalty",
        |_| openai::PRESENCE_PENALTY.schema().by_default(0.0),
        "Subtracted from a token's logit if the text holds it.",
    ),
    ("logit_bias", |_| sampling::logit_bias_schema(), "Added to the logits of tokens, by id."),
    (
        "allowed_token_ids",
        |_| list(integer().at_least(0)).at_least_items(1),
        "Choose among these tokens only; ids of the model's vocabulary.",
    ),
    ("bad_words", |_| sampling::bad_words_schema(), "Texts that must not be generated."),
    ("seed", |_| integer().at_least(i64::MIN).at_most(u64::MAX), "Makes a sampled text repeatable."),
];

/// Temperature 0 and a nucleus of no mass are both the best token alone.
pub(super) fn take_sampling(fields: &mut Fields, state: &AppState) -> Result<Sampling, ApiError> {
    let temperature = openai::TEMPERATURE.take(fields)?.unwrap_or(1.0);
    let top_p = openai::TOP_P.take(fields)?.unwrap_or(1.0);
    Ok(Sampling {
        temperature: if top_p == 0.0 { 0.0 } else { temperature },
        top_k: openai::TOP_K.take(fields)?,
        top_p,
        typical_p: openai::TYPICAL_P.take(fields)?.unwrap_or(1.0),
        min_p: openai::MIN_P.take(fields)?.unwrap_or(0.0),
        repetition_penalty: openai::REPETITION_PENALTY.take(fields)?.unwrap_or(1.0),
        frequency_penalty: openai::FREQUENCY_PENALTY.take(fields)?.unwrap_or(0.0),
        presence_penalty: openai::PRESENCE_PENALTY.take(fields)?.unwrap_or(0.0),
        tgi_frequency_penalty: 0.0,
        logit_bias: take_logit_bias(fields, state)?,
        allowed_token_ids: take_allowed_token_ids(fields, state)?,
        bad_words: sampling::bad_words(fields.take("bad_words")?.unwrap_or_default())?,
        seed: take_seed(fields)?,
        watermark: None,
    })
}

fn take_logit_bias(fields: &mut Fields, state: &AppState) -> Result<Vec<(u32, f32)>, ApiError> {
    match fields.take::<Value>("logit_bias")? {
        Some(value) => sampling::logit_bias(&value, state.worker_info()?.vocab_size),
        None => Ok(Vec::new()),
    }
}

fn take_allowed_token_ids(fields: &mut Fields, state: &AppState) -> Result<Vec<u32>, ApiError> {
    const NAME: &str = "allowed_token_ids";
    match fields.take::<Vec<u32>>(NAME)? {
        Some(ids) if ids.is_empty() => Err(ApiError::validation(NAME, format!("`{NAME}` must not be empty"))),
        Some(ids) => sampling::token_ids(NAME, ids, state.worker_info()?.vocab_size),
        None => Ok(Vec::new()),
    }
}

/// Any 64-bit integer, negative ones too.
fn take_seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(seed) = fields.take::<Value>("seed")? else { return Ok(None) };
    let bits = seed.as_u64().or_else(|| seed.as_i64().map(i64::cast_unsigned));
    bits.map(Some)
        .ok_or_else(|| ApiError::wrong_type("seed", format!("`seed` must be a 64-bit integer. Given: {seed}")))
}
