//! Options that name tokens: by id, which the vocabulary must have, or by text, which becomes ids.

use forebay_text::Tokenizer;
use serde_json::Value;

use crate::error::ApiError;
use crate::schema::{Schema, any_of, anything, list, number, object, string};

/// Biased tokens, listed ids and bad words of one request: each costs the worker work at every step.
const MAX_BIASED_TOKENS: usize = 1024;
const MAX_BAD_WORDS: usize = 128;
const BIAS: std::ops::RangeInclusive<f64> = -100.0..=100.0;

/// `OpenAI`'s `logit_bias`: token ids, written as strings, to numbers from -100 to 100. An empty list is none, too: TGI's
/// clients type the field as a list.
pub(crate) fn logit_bias(value: &Value, vocab_size: u32) -> Result<Vec<(u32, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    let map = match value {
        Value::Array(list) if list.is_empty() => return Ok(Vec::new()),
        Value::Object(map) => map,
        _ => {
            let message = format!("`{NAME}` must map token ids to numbers. Given: {value}");
            return Err(ApiError::wrong_type(NAME, message));
        }
    };
    at_most(NAME, "token ids", map.len(), MAX_BIASED_TOKENS)?;
    map.iter()
        .map(|(key, bias)| {
            // As JSON writes a number, so that no token is named twice.
            let id = key.parse().ok().filter(|id: &u32| id.to_string() == *key).ok_or_else(|| {
                ApiError::wrong_type(NAME, format!("`{NAME}` holds the key `{key}`, which is not a token id"))
            })?;
            in_vocabulary(NAME, id, vocab_size)?;
            let bias = bias.as_f64().filter(|bias| BIAS.contains(bias)).ok_or_else(|| {
                let message = format!("`{NAME}` must hold numbers >= -100 and <= 100. Given: {bias} for token `{id}`");
                ApiError::validation(NAME, message)
            })?;
            Ok((id, bias as f32))
        })
        .collect()
}

/// What [`logit_bias`] takes, but for the vocabulary.
pub(crate) fn logit_bias_schema() -> Schema {
    let bias = number().at_least(*BIAS.start()).at_most(*BIAS.end());
    let map = object().with("additionalProperties", bias).with("maxProperties", MAX_BIASED_TOKENS);
    any_of([map, list(anything()).at_most_items(0)])
}

/// A list of ids, each in the vocabulary, without repetitions and in order.
pub(crate) fn token_ids(name: &str, mut ids: Vec<u32>, vocab_size: u32) -> Result<Vec<u32>, ApiError> {
    ids.sort_unstable();
    ids.dedup();
    ids.last().map_or(Ok(()), |&highest| in_vocabulary(name, highest, vocab_size))?;
    Ok(ids)
}

/// Texts that must not be generated, not yet encoded.
pub(crate) fn bad_words(words: Vec<String>) -> Result<Vec<String>, ApiError> {
    at_most("bad_words", "words", words.len(), MAX_BAD_WORDS)?;
    if words.iter().any(String::is_empty) {
        return Err(ApiError::validation("bad_words", "`bad_words` must not hold empty strings"));
    }
    Ok(words)
}

/// What [`bad_words`] takes.
pub(crate) fn bad_words_schema() -> Schema {
    list(string().not_empty()).at_most_items(MAX_BAD_WORDS).by_default(Vec::<Value>::new())
}

/// The token runs that spell each word, both at the beginning of a text and after a space: a tokenizer writes these two
/// with different ids. Takes time by the byte, so it belongs on a text worker.
pub(crate) fn encode_bad_words(words: &[String], tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, ApiError> {
    let mut runs = Vec::with_capacity(2 * words.len());
    for word in words {
        let bare = word.trim_start();
        let forms = if bare.is_empty() { vec![word.clone()] } else { vec![bare.to_owned(), format!(" {bare}")] };
        for form in forms {
            let run = tokenizer.encode_ids(&form, false)?;
            if !run.is_empty() && !runs.contains(&run) {
                runs.push(run);
            }
        }
    }
    Ok(runs)
}

fn in_vocabulary(name: &str, id: u32, vocab_size: u32) -> Result<(), ApiError> {
    if id < vocab_size {
        return Ok(());
    }
    Err(ApiError::validation(name, format!("`{name}` holds token id `{id}`; the vocabulary has {vocab_size}")))
}

fn at_most(name: &str, things: &str, got: usize, limit: usize) -> Result<(), ApiError> {
    if got <= limit {
        return Ok(());
    }
    Err(ApiError::validation(name, format!("`{name}` may hold up to {limit} {things}. Given: {got}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bias_is_a_map_from_ids_to_bounded_numbers() {
        assert_eq!(logit_bias(&json!({ "5": -100, "7": 0.5 }), 8).unwrap(), [(5, -100.0), (7, 0.5)]);
        assert_eq!(logit_bias(&json!([]), 8).unwrap(), []);
        for (value, message) in [
            (json!([1]), "`logit_bias` must map token ids to numbers. Given: [1]"),
            (json!({ "a": 1 }), "`logit_bias` holds the key `a`, which is not a token id"),
            (json!({ "-1": 1 }), "`logit_bias` holds the key `-1`, which is not a token id"),
            (json!({ "05": 1 }), "`logit_bias` holds the key `05`, which is not a token id"),
            (json!({ "8": 1 }), "`logit_bias` holds token id `8`; the vocabulary has 8"),
            (json!({ "1": 101 }), "`logit_bias` must hold numbers >= -100 and <= 100. Given: 101 for token `1`"),
            (json!({ "1": "x" }), "`logit_bias` must hold numbers >= -100 and <= 100. Given: \"x\" for token `1`"),
        ] {
            assert_eq!(logit_bias(&value, 8).unwrap_err().to_string(), message);
        }
        let many: serde_json::Map<String, Value> = (0..1025).map(|id| (id.to_string(), json!(1))).collect();
        let message = "`logit_bias` may hold up to 1024 token ids. Given: 1025";
        assert_eq!(logit_bias(&Value::Object(many), 2000).unwrap_err().to_string(), message);
    }

    #[test]
    fn lists_of_ids_are_sorted_sets_within_the_vocabulary() {
        assert_eq!(token_ids("allowed_token_ids", vec![5, 1, 5], 8).unwrap(), [1, 5]);
        let message = "`allowed_token_ids` holds token id `8`; the vocabulary has 8";
        assert_eq!(token_ids("allowed_token_ids", vec![8, 1], 8).unwrap_err().to_string(), message);
    }
}
