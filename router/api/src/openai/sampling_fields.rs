//! How tokens are chosen, as `OpenAI`'s bodies and their common extensions (vLLM's names) say it.

use serde_json::Value;

use crate::error::ApiError;
use crate::fields::Fields;
use crate::sampling::{self, Sampling, openai};
use crate::state::AppState;

/// Temperature 0 and a nucleus of no mass are both the best token alone.
pub(super) fn take_sampling(fields: &mut Fields, state: &AppState) -> Result<Sampling, ApiError> {
    let temperature = openai::TEMPERATURE.check(fields.take("temperature")?)?.unwrap_or(1.0);
    let top_p = openai::TOP_P.check(fields.take("top_p")?)?.unwrap_or(1.0);
    Ok(Sampling {
        temperature: if top_p == 0.0 { 0.0 } else { temperature },
        top_k: openai::TOP_K.check(fields.take("top_k")?)?,
        top_p,
        typical_p: openai::TYPICAL_P.check(fields.take("typical_p")?)?.unwrap_or(1.0),
        min_p: openai::MIN_P.check(fields.take("min_p")?)?.unwrap_or(0.0),
        repetition_penalty: openai::REPETITION_PENALTY.check(fields.take("repetition_penalty")?)?.unwrap_or(1.0),
        frequency_penalty: openai::FREQUENCY_PENALTY.check(fields.take("frequency_penalty")?)?.unwrap_or(0.0),
        presence_penalty: openai::PRESENCE_PENALTY.check(fields.take("presence_penalty")?)?.unwrap_or(0.0),
        tgi_frequency_penalty: 0.0,
        logit_bias: take_logit_bias(fields, state)?,
        allowed_token_ids: take_allowed_token_ids(fields, state)?,
        bad_words: sampling::bad_words(fields.take("bad_words")?.unwrap_or_default())?,
        seed: take_seed(fields)?,
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
