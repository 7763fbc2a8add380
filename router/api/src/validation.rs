//! Counts against the model's and the operator's limits.

use crate::error::{ApiError, Dialect};
use crate::state::TokenLimits;

/// How many tokens a request may generate: what it asked for, or all that fit. The order of the checks and the native
/// texts are TGI's.
pub(crate) fn max_new_tokens(
    dialect: Dialect,
    num_prompt_tokens: usize,
    asked: Option<u32>,
    limits: TokenLimits,
) -> Result<u32, ApiError> {
    let TokenLimits { max_input_tokens, max_total_tokens } = limits;
    let room = u64::from(max_total_tokens).saturating_sub(num_prompt_tokens as u64);
    let max_new_tokens = asked.map_or(room, u64::from);
    if num_prompt_tokens as u64 + max_new_tokens > u64::from(max_total_tokens) {
        return Err(too_long(dialect, num_prompt_tokens, max_new_tokens, max_total_tokens));
    }
    if num_prompt_tokens > max_input_tokens as usize {
        let message = format!("`inputs` must have less than {max_input_tokens} tokens. Given: {num_prompt_tokens}");
        return Err(ApiError::too_many_tokens(input_field(dialect), message.replace("inputs", input_field(dialect))));
    }
    Ok(max_new_tokens as u32)
}

/// No longer than can be. Only `/v1` has the field.
pub(crate) fn min_new_tokens(asked: u32, max_new_tokens: u32) -> Result<(), ApiError> {
    if asked <= max_new_tokens {
        return Ok(());
    }
    let message = format!("`min_tokens` must be at most {max_new_tokens}, which fit behind the prompt. Given: {asked}");
    Err(ApiError::too_many_tokens("min_tokens", message))
}

/// Log-probabilities of prompt tokens that an answer may hold: some 30 MB of JSON.
const MAX_PROMPT_LOGPROBS: u64 = 1 << 19;

/// Each choice tells its prompt's tokens, each with `num_top` alternatives.
pub(crate) fn num_prompt_logprobs(num_tokens: usize, num_top: u32, num_choices: u32) -> Result<(), ApiError> {
    let told = num_tokens as u64 * u64::from(num_choices) * (u64::from(num_top) + 1);
    if told <= MAX_PROMPT_LOGPROBS {
        return Ok(());
    }
    let message = format!(
        "an answer may hold up to {MAX_PROMPT_LOGPROBS} log-probabilities of prompt tokens; {num_tokens} tokens with \
         {num_top} alternatives each in {num_choices} choices are {told}"
    );
    Err(ApiError::validation("prompt", message))
}

fn too_long(dialect: Dialect, num_prompt_tokens: usize, max_new_tokens: u64, max_total_tokens: u32) -> ApiError {
    match dialect {
        Dialect::Native => ApiError::too_many_tokens(
            "max_new_tokens",
            format!(
                "`inputs` tokens + `max_new_tokens` must be <= {max_total_tokens}. Given: {num_prompt_tokens} \
                 `inputs` tokens and {max_new_tokens} `max_new_tokens`"
            ),
        ),
        Dialect::OpenAi => ApiError::too_many_tokens(
            "max_tokens",
            format!(
                "the model's maximum context length is {max_total_tokens} tokens; given: {num_prompt_tokens} prompt \
                 tokens and {max_new_tokens} `max_tokens` (or `max_completion_tokens`)"
            ),
        ),
    }
}

fn input_field(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Native => "inputs",
        Dialect::OpenAi => "prompt",
    }
}

/// At most `max` stop strings, none empty.
pub(crate) fn stop_strings(stops: &[String], max: usize) -> Result<(), ApiError> {
    if stops.len() > max {
        let message = format!("`stop` supports up to {max} stop sequences. Given: {}", stops.len());
        return Err(ApiError::validation("stop", message));
    }
    if stops.iter().any(String::is_empty) {
        return Err(ApiError::validation("stop", "`stop` must not hold empty strings"));
    }
    Ok(())
}

/// Before tokenizing, which takes time and memory by the byte.
pub(crate) fn prompt_bytes(dialect: Dialect, text: &str, max: usize) -> Result<(), ApiError> {
    let field = input_field(dialect);
    if text.len() > max {
        let message = format!("`{field}` must have at most {max} bytes. Given: {}", text.len());
        return Err(ApiError::too_many_tokens(field, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TokenLimits = TokenLimits { max_input_tokens: 8, max_total_tokens: 10 };

    fn native(num_prompt_tokens: usize, asked: Option<u32>) -> Result<u32, String> {
        max_new_tokens(Dialect::Native, num_prompt_tokens, asked, LIMITS).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_without_a_bound_fills_the_context() {
        assert_eq!(native(3, None), Ok(7));
    }

    #[test]
    fn prompt_and_new_tokens_may_fill_the_context_and_not_more() {
        assert_eq!(native(3, Some(7)), Ok(7));
        let message =
            "`inputs` tokens + `max_new_tokens` must be <= 10. Given: 3 `inputs` tokens and 8 `max_new_tokens`";
        assert_eq!(native(3, Some(8)), Err(message.to_owned()));
    }

    #[test]
    fn a_prompt_beyond_the_operators_bound_is_refused() {
        assert_eq!(native(9, Some(1)), Err("`inputs` must have less than 8 tokens. Given: 9".to_owned()));
    }
}
