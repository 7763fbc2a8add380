//! TGI's request body: its defaults and checks, in its order and words.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use forebay_wire::v1::LogprobsKind;
use serde_json::{Map, Value};

use crate::choices::MAX_CHOICES;
use crate::error::{ApiError, Dialect};
use crate::fields::{self, Body, Fields, Served};
use crate::generate::{Job, Prompt, StopText};
use crate::sampling::{Logprobs, Sampling, native};
use crate::schema::{boolean, integer, list, named, string};
use crate::state::AppState;
use crate::validation;

/// What a JSON handler is handed.
pub(crate) type JsonBody = Result<Json<Map<String, Value>>, JsonRejection>;

/// The feature by which a worker says that it can score prompts.
const PROMPT_LOGPROBS: &str = "prompt_logprobs";

/// The body of every native route that reads a prompt.
pub(super) const BODY: Body =
    Body { prefix: "", required: &["inputs"], served: &[INPUTS], unserved: &[fields::NATIVE_BODY] };

/// Its `parameters`.
pub(super) const PARAMETERS: Body =
    Body { prefix: "parameters.", required: &[], served: &[CHOOSING, ENDING], unserved: &[fields::NATIVE_PARAMETERS] };

const INPUTS: &[Served] = &[
    ("inputs", |_| string().not_empty(), "The prompt."),
    ("parameters", |_| named("GenerateParameters"), "How to generate. Without it, tokens are sampled."),
    ("stream", |_| boolean().by_default(false), "Answer token by token. Only `/` looks at it: other routes decide it."),
];

/// How tokens are chosen.
const CHOOSING: &[Served] = &[
    (
        "best_of",
        |limits| integer().at_least(0).at_most(limits.max_best_of.min(u64::from(MAX_CHOICES))).by_default(1),
        "Generate so many texts and answer the likeliest. More than one needs sampling, no `seed` and no stream.",
    ),
    ("do_sample", |_| boolean().by_default(false), "Sample, rather than take the likeliest token each time."),
    (
        "temperature",
        |_| native::TEMPERATURE.schema().by_default(1.0),
        "What logits are divided by before sampling; switches it on unless 1.",
    ),
    (
        "repetition_penalty",
        |_| native::REPETITION_PENALTY.schema().by_default(1.0),
        "What makes tokens of prompt and text less likely, if above 1.",
    ),
    (
        "frequency_penalty",
        |_| native::FREQUENCY_PENALTY.schema().by_default(0.0),
        "Subtracted from a token's logit, times its share of the prompt's and the text's tokens.",
    ),
    ("top_k", |_| native::TOP_K.schema(), "Sample among so many of the likeliest tokens."),
    ("top_p", |_| native::TOP_P.schema(), "Sample among the likeliest tokens that together have this probability."),
    (
        "typical_p",
        |_| native::TYPICAL_P.schema(),
        "Sample among the most typical tokens that together have this probability.",
    ),
    (
        "watermark",
        |_| boolean().by_default(false),
        "Make a part of the tokens likelier, by which a detector can tell the text later.",
    ),
    (
        "seed",
        |_| integer().at_least(0).at_most(u64::MAX),
        "Makes a sampled text repeatable; one is made, and told in `details`, if there is none.",
    ),
];

/// Where a text ends and what is told of it.
const ENDING: &[Served] = &[
    (
        "max_new_tokens",
        |_| integer().at_least(1),
        "Generate so many tokens at most; by default, as many as fit into the model's context.",
    ),
    (
        "stop",
        |limits| list(string().not_empty()).at_most_items(limits.max_stop_sequences).by_default(Vec::<Value>::new()),
        "Strings after which the text ends; it keeps them.",
    ),
    (
        "truncate",
        |_| integer().at_least(1),
        "Use only so many of the prompt's last tokens; at most as many as a prompt may have.",
    ),
    (
        "return_full_text",
        |_| boolean(),
        "Put the prompt before the text. By default only `/` does, if the model's task is `text-generation` or unknown.",
    ),
    ("details", |_| boolean().by_default(false), "Tell how the text ended, and each token with its log-probability."),
    (
        "decoder_input_details",
        |_| boolean().by_default(false),
        "Score the prompt's tokens too, in `details.prefill`; not in a stream.",
    ),
    (
        "top_n_tokens",
        |limits| integer().at_least(0).at_most(limits.max_top_n_tokens).by_default(0),
        "Tell so many of the likeliest tokens at each position, and all that tie with the last.",
    ),
];

/// A request with its `parameters` not yet looked at.
#[derive(Debug)]
pub(crate) struct GenerateRequest {
    pub(crate) inputs: String,
    pub(crate) stream: bool,
    /// `None` and `{}` differ: without parameters TGI samples.
    parameters: Option<Fields>,
}

/// What shapes the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) return_full_text: bool,
    pub(crate) details: bool,
    pub(crate) decoder_input_details: bool,
    pub(crate) top_n_tokens: bool,
}

/// What the route itself decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) streams: bool,
    /// If the request does not say.
    pub(crate) return_full_text: bool,
}

impl GenerateRequest {
    pub(crate) fn parse(state: &AppState, body: JsonBody) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body, state.limits().max_body_bytes, &BODY)?;
        let inputs = fields.require("inputs")?;
        let stream = fields.take("stream")?.unwrap_or(false);
        let parameters = fields.take::<Map<String, Value>>("parameters")?;
        fields.finish()?;
        Ok(Self { inputs, stream, parameters: parameters.map(|values| Fields::of_object(values, &PARAMETERS)) })
    }

    /// Checks everything but lengths.
    pub(crate) fn into_job(self, state: &AppState, route: Route) -> Result<(Job, Options), ApiError> {
        let samples_by_default = self.parameters.is_none();
        let mut fields = self.parameters.unwrap_or_else(|| Fields::of_object(Map::new(), &PARAMETERS));
        let (sampling, best_of) = take_sampling(&mut fields, state, route, samples_by_default)?;
        let max_new_tokens = fields.take::<u32>("max_new_tokens")?;
        if max_new_tokens == Some(0) {
            return Err(ApiError::validation("max_new_tokens", "`max_new_tokens` must be strictly positive"));
        }
        let stops = fields.take::<Vec<String>>("stop")?.unwrap_or_default();
        validation::stop_strings(&stops, state.limits().max_stop_sequences)?;
        let decoder_input_details = take_decoder_input_details(&mut fields, state, route)?;
        let num_top = take_top_n_tokens(&mut fields, state)?;
        let truncate = take_truncate(&mut fields, state)?;
        let details = fields.take("details")?.unwrap_or(false) || decoder_input_details;
        let return_full_text = fields.take("return_full_text")?.unwrap_or(route.return_full_text);
        fields.finish()?;
        if self.inputs.is_empty() {
            return Err(ApiError::validation("inputs", "`inputs` cannot be empty"));
        }
        // Every streamed token carries its log-probability; a whole answer only shows them in `details`, and the best of
        // several is found by them.
        let logprobs = (route.streams || details || best_of > 1).then_some(Logprobs {
            kind: LogprobsKind::Processed,
            num_top,
            top_ties: true,
        });
        let job = Job {
            dialect: Dialect::Native,
            prompts: vec![Prompt::Text(self.inputs)],
            echo: false,
            num_choices: best_of,
            add_special_tokens: None,
            truncate,
            max_new_tokens,
            min_new_tokens: 0,
            ignore_eos: false,
            stop_token_ids: Vec::new(),
            sampling,
            stops,
            stop_text: StopText::Keep,
            skip_special_tokens: true,
            logprobs,
            prompt_logprobs: decoder_input_details.then_some(0),
        };
        let options = Options { return_full_text, details, decoder_input_details, top_n_tokens: num_top > 0 };
        Ok((job, options))
    }
}

fn take_sampling(
    fields: &mut Fields,
    state: &AppState,
    route: Route,
    samples_by_default: bool,
) -> Result<(Sampling, u32), ApiError> {
    let best_of = fields.take::<u64>("best_of")?;
    let do_sample = fields.take("do_sample")?.unwrap_or(samples_by_default);
    let temperature = native::TEMPERATURE.take(fields)?;
    let repetition_penalty = native::REPETITION_PENALTY.take(fields)?;
    let frequency_penalty = native::FREQUENCY_PENALTY.take(fields)?;
    let top_k = native::TOP_K.take(fields)?;
    let top_p = native::TOP_P.take(fields)?;
    let typical_p = native::TYPICAL_P.take(fields)?;
    let seed = fields.take::<u64>("seed")?;
    let watermark = fields.take("watermark")?.unwrap_or(false).then(|| state.watermark());
    let temperature_samples = temperature.is_some_and(|value| (value - 1.0).abs() > f32::EPSILON);
    let truncates = top_k > 0 || top_p.is_some() || typical_p.is_some();
    let samples = do_sample || temperature_samples || truncates;
    // A temperature of 1 passes for sampling here, though it chooses greedily.
    let may_differ = samples || temperature.is_some();
    let best_of = check_best_of(best_of, state.limits().max_best_of, may_differ, seed, route.streams)?;
    let sampling = Sampling {
        temperature: if samples { temperature.unwrap_or(1.0) } else { 0.0 },
        top_k,
        top_p: top_p.unwrap_or(1.0),
        typical_p: typical_p.unwrap_or(1.0),
        repetition_penalty: repetition_penalty.unwrap_or(1.0),
        tgi_frequency_penalty: frequency_penalty.unwrap_or(0.0),
        watermark,
        seed,
        ..Sampling::default()
    };
    Ok((sampling, best_of))
}

fn check_best_of(
    best_of: Option<u64>,
    max_best_of: u64,
    may_differ: bool,
    seed: Option<u64>,
    streams: bool,
) -> Result<u32, ApiError> {
    let best_of = best_of.unwrap_or(1);
    let message = match best_of {
        1 => return Ok(1),
        _ if streams => "`best_of` != 1 is not supported when streaming tokens".to_owned(),
        0 => return Ok(1),
        _ if max_best_of == 1 => "`best_of` != 1 is not allowed for this endpoint".to_owned(),
        n if n > max_best_of => format!("`best_of` must be > 0 and <= {max_best_of}. Given: {n}"),
        _ if !may_differ => "you must use sampling when `best_of` is > 1".to_owned(),
        _ if seed.is_some() => "`seed` must not be set when `best_of` > 1".to_owned(),
        n if n > u64::from(MAX_CHOICES) => format!("`best_of` must be > 0 and <= {MAX_CHOICES}. Given: {n}"),
        n => return Ok(n as u32),
    };
    Err(ApiError::validation("best_of", message))
}

fn take_decoder_input_details(fields: &mut Fields, state: &AppState, route: Route) -> Result<bool, ApiError> {
    let wanted = fields.take("decoder_input_details")?.unwrap_or(false);
    if wanted && route.streams {
        let message = "`decoder_input_details` == true is not supported when streaming tokens";
        return Err(ApiError::validation("decoder_input_details", message));
    }
    if wanted && !state.worker_info()?.features.iter().any(|feature| feature == PROMPT_LOGPROBS) {
        return Err(ApiError::not_served("decoder_input_details"));
    }
    Ok(wanted)
}

fn take_top_n_tokens(fields: &mut Fields, state: &AppState) -> Result<u32, ApiError> {
    let max = state.limits().max_top_n_tokens;
    match fields.take::<u32>("top_n_tokens")?.unwrap_or(0) {
        n if n > max => {
            let message = format!("`top_n_tokens` must be >= 0 and <= {max}. Given: {n}");
            Err(ApiError::validation("top_n_tokens", message))
        }
        n => Ok(n),
    }
}

fn take_truncate(fields: &mut Fields, state: &AppState) -> Result<Option<u32>, ApiError> {
    let Some(truncate) = fields.take::<u64>("truncate")? else { return Ok(None) };
    let max = state.token_limits()?.max_input_tokens;
    if truncate == 0 || truncate > u64::from(max) {
        let message = format!("`truncate` must be strictly positive and less than {max}. Given: {truncate}");
        return Err(ApiError::validation("truncate", message));
    }
    Ok(Some(truncate as u32))
}
