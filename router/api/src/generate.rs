//! The path all endpoints share: render, encode, check, submit. It knows no dialect's JSON.

use std::sync::Arc;

use forebay_engine::EngineRequest;
use forebay_text::{ChatInputs, Detokenizer, ModelText, Tokenizer};
use tokio::sync::OwnedSemaphorePermit;

use crate::choices::Choices;
use crate::error::{ApiError, Dialect};
use crate::sampling::{self, Extras, Logprobs, Sampling};
use crate::state::AppState;
use crate::telemetry::RequestRecord;
use crate::text_generation::{EncodedPrompt, TextGeneration, TextState};
use crate::validation;

/// What is to be continued.
#[derive(Debug)]
pub(crate) enum Prompt {
    /// Text; with the model's own special tokens (BOS) before it unless the request says otherwise.
    Text(String),
    /// Messages; the template writes all special tokens itself unless the request says otherwise.
    Chat(Box<ChatInputs>),
    /// Token ids as they are.
    Ids(Vec<u32>),
}

/// Whether the text ends with the stop string or before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopText {
    Keep,
    Trim,
}

/// One request's generations, as a dialect asks for them; ranges are checked, lengths are not yet.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) dialect: Dialect,
    pub(crate) prompts: Vec<Prompt>,
    /// Each prompt is shown before its answers.
    pub(crate) echo: bool,
    /// Of each prompt.
    pub(crate) num_choices: u32,
    /// Whether the tokenizer adds the model's special tokens, if the request says so.
    pub(crate) add_special_tokens: Option<bool>,
    /// Keep the last so many prompt tokens.
    pub(crate) truncate: Option<u32>,
    /// 0: the prompt alone is computed.
    pub(crate) max_new_tokens: Option<u32>,
    pub(crate) min_new_tokens: u32,
    /// The model's end tokens do not end it; `stop_token_ids` do.
    pub(crate) ignore_eos: bool,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) sampling: Sampling,
    pub(crate) stops: Vec<String>,
    pub(crate) stop_text: StopText,
    /// Special tokens have no visible text.
    pub(crate) skip_special_tokens: bool,
    pub(crate) logprobs: Option<Logprobs>,
    /// Alternatives beside each prompt token.
    pub(crate) prompt_logprobs: Option<u32>,
}

/// Starts the generations. An error here is known before any stream begins.
pub(crate) async fn generate(state: &AppState, job: Job, mut record: RequestRecord) -> Result<Choices, ApiError> {
    let started = start(state, job, &mut record).await;
    let (generations, permit) = record.check(started)?;
    Ok(Choices::new(generations, record, permit))
}

async fn start(
    state: &AppState,
    job: Job,
    record: &mut RequestRecord,
) -> Result<(Vec<TextGeneration>, OwnedSemaphorePermit), ApiError> {
    let permit = state.admit()?;
    let model = state.model()?;
    let token_limits = state.token_limits()?;
    let (mut job, Encoded { prompts, bad_words }) = encode(state, &model.text, job).await?;
    job.sampling = job.sampling.seeded();
    let mut requests = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let asked = job.max_new_tokens;
        let max_new_tokens = validation::max_new_tokens(job.dialect, prompt.ids.len(), asked, token_limits)?;
        validation::min_new_tokens(job.min_new_tokens, max_new_tokens)?;
        record.validated(prompt.ids.len(), max_new_tokens);
        let request = engine_request(&job, &prompt, &bad_words, max_new_tokens, &model.text.end_token_ids);
        requests.push((Arc::new(prompt), request));
    }
    if let Some(num_top) = job.prompt_logprobs {
        let num_tokens = requests.iter().map(|(prompt, _)| prompt.ids.len()).sum();
        validation::num_prompt_logprobs(num_tokens, num_top, job.num_choices)?;
    }
    let mut generations = Vec::new();
    for (prompt, request) in requests {
        for choice in 0..job.num_choices {
            let mut request = request.clone();
            if choice > 0 {
                // The first choice's are all of theirs; the others may find the prompt computed.
                request.prompt_logprobs = false;
                request.sampling.num_prompt_logprobs = -1;
            }
            request.sampling.seed = sampling::choice_seed(request.sampling.seed, choice);
            let text = TextState::new(&job, &prompt.ids, &model.text, &request);
            let generation = model.engine.submit(request).await?;
            let index = generations.len();
            generations.push(TextGeneration::new(generation, text, Arc::clone(&prompt), index, choice));
        }
    }
    Ok((generations, permit))
}

/// All of a request's texts as ids.
struct Encoded {
    prompts: Vec<EncodedPrompt>,
    bad_words: Vec<Vec<u32>>,
}

/// Renders and tokenizes on a text worker. Hands the job back without its prompts.
async fn encode(state: &AppState, text: &Arc<ModelText>, job: Job) -> Result<(Job, Encoded), ApiError> {
    let max_bytes = state.limits().max_prompt_bytes;
    let model_text = Arc::clone(text);
    state.on_text_worker(move || encode_now(&model_text, job, max_bytes)).await
}

fn encode_now(model_text: &ModelText, mut job: Job, max_bytes: usize) -> Result<(Job, Encoded), ApiError> {
    let bad_words = sampling::encode_bad_words(&job.sampling.bad_words, &model_text.tokenizer)?;
    let prompts = std::mem::take(&mut job.prompts);
    let prompts = prompts.into_iter().map(|prompt| encode_prompt(model_text, prompt, &job, max_bytes));
    let prompts = prompts.collect::<Result<_, _>>()?;
    Ok((job, Encoded { prompts, bad_words }))
}

fn encode_prompt(
    model_text: &ModelText,
    prompt: Prompt,
    job: &Job,
    max_bytes: usize,
) -> Result<EncodedPrompt, ApiError> {
    let (text, add_special) = match prompt {
        Prompt::Ids(ids) => return Ok(prompt_of_ids(&model_text.tokenizer, ids, job)),
        Prompt::Text(text) => (text, true),
        Prompt::Chat(inputs) => (render(model_text, &inputs)?, false),
    };
    validation::prompt_bytes(job.dialect, &text, max_bytes)?;
    let add_special = job.add_special_tokens.unwrap_or(add_special);
    let (ids, starts) = if job.echo {
        let encoding = model_text.tokenizer.encode_exact(&text, add_special)?;
        let starts = character_offsets(&text, encoding.offsets.iter().map(|range| range.start));
        (encoding.ids, starts)
    } else {
        (model_text.tokenizer.encode_ids(&text, add_special)?, Vec::new())
    };
    Ok(EncodedPrompt::new(text, keep_last(ids, job.truncate), starts, job.prompt_logprobs.is_some()))
}

fn prompt_of_ids(tokenizer: &Arc<Tokenizer>, ids: Vec<u32>, job: &Job) -> EncodedPrompt {
    let (mut text, mut starts, mut num_characters) = (String::new(), Vec::new(), 0);
    if job.echo {
        let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), &[], job.skip_special_tokens);
        for &id in &ids {
            let piece = detokenizer.push(id);
            starts.push(num_characters);
            num_characters += piece.chars().count();
            text.push_str(&piece);
        }
        text.push_str(&detokenizer.finish());
    }
    EncodedPrompt::new(text, keep_last(ids, job.truncate), starts, job.prompt_logprobs.is_some())
}

/// Places in a text, ascending, counted in characters instead of bytes.
fn character_offsets(text: &str, bytes: impl Iterator<Item = usize>) -> Vec<usize> {
    let (mut at, mut num_characters) = (0, 0);
    let count = bytes.map(|byte| {
        num_characters += text.get(at..byte).map_or(0, |passed| passed.chars().count());
        at = at.max(byte);
        num_characters
    });
    count.collect()
}

/// The chat as the model's template writes it.
pub(crate) fn render(model_text: &ModelText, inputs: &ChatInputs) -> Result<String, ApiError> {
    let templates = model_text
        .chat_templates
        .as_ref()
        .ok_or_else(|| ApiError::Template("the model has no chat template; use a completion endpoint".to_owned()))?;
    Ok(templates.select(inputs)?.render(inputs)?)
}

fn keep_last(mut ids: Vec<u32>, truncate: Option<u32>) -> Vec<u32> {
    let keep = truncate.map_or(ids.len(), |truncate| ids.len().min(truncate as usize));
    ids.split_off(ids.len() - keep)
}

fn engine_request(
    job: &Job,
    prompt: &EncodedPrompt,
    bad_words: &[Vec<u32>],
    max_new_tokens: u32,
    end_token_ids: &[u32],
) -> EngineRequest {
    let all_end_token_ids = [end_token_ids, &job.stop_token_ids].concat();
    let extras = Extras {
        logprobs: job.logprobs,
        prompt_logprobs: job.prompt_logprobs,
        min_new_tokens: job.min_new_tokens,
        end_token_ids: &all_end_token_ids,
        bad_words,
    };
    let sampling = sampling::to_wire(&job.sampling, &extras);
    EngineRequest {
        token_ids: prompt.ids.clone(),
        // No model computes a prompt without yielding a token.
        max_new_tokens: max_new_tokens.max(1),
        min_new_tokens: job.min_new_tokens,
        stop_token_ids: if job.ignore_eos { job.stop_token_ids.clone() } else { all_end_token_ids },
        priority: 0,
        timeout: None,
        cache_salt: 0,
        sampling,
        logprobs: job.logprobs.is_some(),
        prompt_logprobs: job.prompt_logprobs.is_some(),
    }
}
