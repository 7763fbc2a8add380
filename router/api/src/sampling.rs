//! Each sampling option once: its name, its range in each dialect, and what it becomes for the worker.

use forebay_wire::SamplingParams;
use forebay_wire::v1::LogprobsKind;

use crate::error::ApiError;
use crate::state::random_u64;

/// An option's name and the range one dialect allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    name: &'static str,
    holds: fn(f64) -> bool,
    words: &'static str,
}

impl Range {
    /// `None` stays `None`; a value outside is refused by name.
    pub(crate) fn check(&self, value: Option<f64>) -> Result<Option<f32>, ApiError> {
        match value {
            None => Ok(None),
            Some(value) if value.is_finite() && (self.holds)(value) => Ok(Some(value as f32)),
            Some(_) => Err(ApiError::validation(self.name, format!("`{}` must be {}", self.name, self.words))),
        }
    }
}

/// TGI's ranges, in TGI's words: neutral values are refused for some options.
pub(crate) mod native {
    use super::Range;

    pub(crate) const TEMPERATURE: Range =
        Range { name: "temperature", holds: |value| value > 0.0, words: "strictly positive" };
    pub(crate) const REPETITION_PENALTY: Range =
        Range { name: "repetition_penalty", holds: |value| value > 0.0, words: "strictly positive" };
    pub(crate) const FREQUENCY_PENALTY: Range =
        Range { name: "frequency_penalty", holds: |value| (-2.0..=2.0).contains(&value), words: ">= -2.0 and <= 2.0" };
    pub(crate) const TOP_K: Range =
        Range { name: "top_k", holds: |value| value > 0.0 && value <= f64::from(i32::MAX), words: "strictly positive" };
    pub(crate) const TOP_P: Range =
        Range { name: "top_p", holds: |value| value > 0.0 && value < 1.0, words: "> 0.0 and < 1.0" };
    pub(crate) const TYPICAL_P: Range =
        Range { name: "typical_p", holds: |value| value > 0.0 && value < 1.0, words: "> 0.0 and < 1.0" };
}

/// OpenAI's ranges, and those of the common extensions.
pub(crate) mod openai {
    use super::Range;

    pub(crate) const TEMPERATURE: Range =
        Range { name: "temperature", holds: |value| (0.0..=2.0).contains(&value), words: ">= 0 and <= 2" };
    pub(crate) const TOP_P: Range =
        Range { name: "top_p", holds: |value| (0.0..=1.0).contains(&value), words: ">= 0 and <= 1" };
    pub(crate) const TOP_K: Range = Range {
        name: "top_k",
        holds: |value| value >= -1.0 && value <= f64::from(i32::MAX),
        words: "positive, or 0 or -1 for off",
    };
    pub(crate) const REPETITION_PENALTY: Range =
        Range { name: "repetition_penalty", holds: |value| value > 0.0, words: "strictly positive" };
}

/// How the next token is chosen; neutral values switch an option off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sampling {
    /// 0 is greedy.
    pub(crate) temperature: f32,
    /// 0 is off.
    pub(crate) top_k: u32,
    /// 1 is off.
    pub(crate) top_p: f32,
    /// 1 is off.
    pub(crate) repetition_penalty: f32,
    /// One is made at admission if absent.
    pub(crate) seed: Option<u64>,
}

impl Sampling {
    pub(crate) fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// The same, with a seed of ours if the request brought none.
    pub(crate) fn seeded(self) -> Self {
        Self { seed: Some(self.seed.unwrap_or_else(random_u64)), ..self }
    }
}

/// Which log-probabilities of generated tokens are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Logprobs {
    /// The model's own, or after penalties and truncation.
    pub(crate) kind: LogprobsKind,
    /// Alternatives beside the chosen token.
    pub(crate) num_top: u32,
    /// Include ties with the last alternative.
    pub(crate) top_ties: bool,
}

/// What else travels with the sampling options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extras<'a> {
    pub(crate) logprobs: Option<Logprobs>,
    pub(crate) prompt_logprobs: bool,
    pub(crate) min_new_tokens: u32,
    pub(crate) end_token_ids: &'a [u32],
}

/// For the wire. A greedy choice has no use for truncation, so it carries none.
pub(crate) fn to_wire(sampling: &Sampling, extras: &Extras<'_>) -> SamplingParams {
    let greedy = sampling.is_greedy();
    let end_token_ids = if extras.min_new_tokens > 0 { extras.end_token_ids } else { &[] };
    SamplingParams {
        temperature: sampling.temperature,
        top_k: if greedy { 0 } else { sampling.top_k },
        top_p: if greedy { 1.0 } else { sampling.top_p },
        typical_p: 1.0,
        repetition_penalty: sampling.repetition_penalty,
        seed: sampling.seed.unwrap_or_default(),
        min_new_tokens: extras.min_new_tokens,
        end_token_ids: end_token_ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        logprobs_kind: extras.logprobs.map_or(LogprobsKind::Raw, |wanted| wanted.kind) as i32,
        num_top_logprobs: extras.logprobs.map_or(0, |wanted| wanted.num_top),
        top_ties: extras.logprobs.is_some_and(|wanted| wanted.top_ties),
        num_prompt_logprobs: if extras.prompt_logprobs { 0 } else { -1 },
        ..SamplingParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neutral_values_are_refused_natively_and_taken_on_v1() {
        assert!(native::TOP_P.check(Some(1.0)).is_err());
        assert!(native::TEMPERATURE.check(Some(0.0)).is_err());
        assert_eq!(openai::TOP_P.check(Some(1.0)).unwrap(), Some(1.0));
        assert_eq!(openai::TEMPERATURE.check(Some(0.0)).unwrap(), Some(0.0));
        assert_eq!(openai::TOP_K.check(Some(-1.0)).unwrap(), Some(-1.0));
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let error = native::TOP_P.check(Some(1.5)).unwrap_err();
        assert_eq!(error.to_string(), "`top_p` must be > 0.0 and < 1.0");
    }

    #[test]
    fn a_greedy_choice_carries_no_truncation_and_prompt_logprobs_are_off_unless_asked() {
        let sampling = Sampling { temperature: 0.0, top_k: 5, top_p: 0.5, repetition_penalty: 1.0, seed: Some(1) };
        let extras = Extras { logprobs: None, prompt_logprobs: false, min_new_tokens: 0, end_token_ids: &[2] };
        let wire = to_wire(&sampling, &extras);
        assert_eq!((wire.top_k, wire.top_p, wire.num_prompt_logprobs), (0, 1.0, -1));
        assert!(wire.end_token_ids.is_empty());
    }
}
