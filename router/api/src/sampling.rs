//! Each sampling option once: its name, its range in each dialect, and what it becomes for the worker.

mod ranges;
mod token_lists;

use forebay_wire::SamplingParams;
use forebay_wire::v1::{self, LogprobsKind};

use crate::state::{Watermark, random_u64};

pub(crate) use ranges::{native, openai};
pub(crate) use token_lists::{bad_words, bad_words_schema, encode_bad_words, logit_bias, logit_bias_schema, token_ids};

/// How the next token is chosen; neutral values switch an option off, and by default all are off.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sampling {
    /// 0 is greedy.
    pub(crate) temperature: f32,
    /// 0 is off.
    pub(crate) top_k: u32,
    /// 1 is off.
    pub(crate) top_p: f32,
    /// 1 is off.
    pub(crate) typical_p: f32,
    /// 0 is off.
    pub(crate) min_p: f32,
    /// 1 is off; over prompt and generated tokens.
    pub(crate) repetition_penalty: f32,
    /// 0 is off; `OpenAI`'s, over generated tokens.
    pub(crate) frequency_penalty: f32,
    /// 0 is off; over generated tokens.
    pub(crate) presence_penalty: f32,
    /// 0 is off; TGI's, over prompt and generated tokens and relative to their number.
    pub(crate) tgi_frequency_penalty: f32,
    /// `(token id, what is added to its logit)`.
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Empty: all.
    pub(crate) allowed_token_ids: Vec<u32>,
    /// Texts that must not be generated.
    pub(crate) bad_words: Vec<String>,
    pub(crate) watermark: Option<Watermark>,
    /// One is made at admission if absent.
    pub(crate) seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            typical_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            tgi_frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            allowed_token_ids: Vec::new(),
            bad_words: Vec::new(),
            watermark: None,
            seed: None,
        }
    }
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

/// The seed of choice `index` of a request. The first choice is the one that the request would get alone.
pub(crate) fn choice_seed(seed: u64, index: u32) -> u64 {
    if index == 0 {
        return seed;
    }
    // splitmix64: neighbouring seeds and indices give unrelated ones.
    let mut z = seed.wrapping_add(u64::from(index).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
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
    /// Alternatives beside each prompt token.
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) min_new_tokens: u32,
    /// What may not be chosen before `min_new_tokens`.
    pub(crate) end_token_ids: &'a [u32],
    /// `Sampling::bad_words`, encoded.
    pub(crate) bad_words: &'a [Vec<u32>],
}

/// For the wire. A greedy choice has no use for truncation, so it carries none.
pub(crate) fn to_wire(sampling: &Sampling, extras: &Extras<'_>) -> SamplingParams {
    let greedy = sampling.is_greedy();
    let end_token_ids = if extras.min_new_tokens > 0 { extras.end_token_ids } else { &[] };
    let bad_words = extras.bad_words.iter().flat_map(|run| [run.len() as u32].into_iter().chain(run.iter().copied()));
    SamplingParams {
        temperature: sampling.temperature,
        top_k: if greedy { 0 } else { sampling.top_k },
        top_p: if greedy { 1.0 } else { sampling.top_p },
        typical_p: if greedy { 1.0 } else { sampling.typical_p },
        min_p: if greedy { 0.0 } else { sampling.min_p },
        repetition_penalty: sampling.repetition_penalty,
        frequency_penalty: sampling.frequency_penalty,
        presence_penalty: sampling.presence_penalty,
        tgi_frequency_penalty: sampling.tgi_frequency_penalty,
        seed: sampling.seed.unwrap_or_default(),
        logit_bias_ids: sampling.logit_bias.iter().flat_map(|(id, _)| id.to_le_bytes()).collect(),
        logit_bias_values: sampling.logit_bias.iter().flat_map(|(_, bias)| bias.to_le_bytes()).collect(),
        allowed_token_ids: pack(sampling.allowed_token_ids.iter().copied()),
        bad_words: pack(bad_words),
        min_new_tokens: extras.min_new_tokens,
        end_token_ids: pack(end_token_ids.iter().copied()),
        logprobs_kind: extras.logprobs.map_or(LogprobsKind::Raw, |wanted| wanted.kind) as i32,
        num_top_logprobs: extras.logprobs.map_or(0, |wanted| wanted.num_top),
        top_ties: extras.logprobs.is_some_and(|wanted| wanted.top_ties),
        num_prompt_logprobs: extras.prompt_logprobs.map_or(-1, u32::cast_signed),
        watermark: sampling.watermark.map(|Watermark { gamma, delta }| v1::Watermark { gamma, delta }),
        ..SamplingParams::default()
    }
}

fn pack<B: FromIterator<u8>>(values: impl Iterator<Item = u32>) -> B {
    values.flat_map(u32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Extras<'_> =
        Extras { logprobs: None, prompt_logprobs: None, min_new_tokens: 0, end_token_ids: &[2], bad_words: &[] };

    #[test]
    fn a_greedy_choice_carries_no_truncation_and_prompt_logprobs_are_off_unless_asked() {
        let sampling =
            Sampling { temperature: 0.0, top_k: 5, top_p: 0.5, typical_p: 0.5, min_p: 0.5, ..Sampling::default() };
        let wire = to_wire(&sampling, &NOTHING);
        assert_eq!((wire.top_k, wire.top_p, wire.typical_p, wire.min_p), (0, 1.0, 1.0, 0.0));
        assert_eq!(wire.num_prompt_logprobs, -1);
        assert!(wire.end_token_ids.is_empty());
    }

    #[test]
    fn runs_of_bad_words_are_each_preceded_by_their_length() {
        let wire = to_wire(&Sampling::default(), &Extras { bad_words: &[vec![7, 8], vec![9]], ..NOTHING });
        let expected: Vec<u8> = [2_u32, 7, 8, 1, 9].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(wire.bad_words, expected);
    }
}
