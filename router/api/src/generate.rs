//! The path all endpoints share: render, encode, check, submit; then, token by token, detokenize and look for stop
//! strings. It knows no dialect's JSON.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use forebay_engine::{EngineRequest, FinishReason, Generation, GenerationEvent, PromptLogprob, TokenLogprobs};
use forebay_text::{ChatInputs, Detokenizer, ModelText, StopStrings, Tokenizer};
use tokio::sync::OwnedSemaphorePermit;

use crate::choices::Choices;
use crate::error::{ApiError, Dialect};
use crate::sampling::{self, Extras, Logprobs, Sampling};
use crate::state::AppState;
use crate::stops::{KeptStops, Stops};
use crate::telemetry::RequestRecord;
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
    /// Of each prompt.
    pub(crate) num_choices: u32,
    /// Whether the tokenizer adds the model's special tokens, if the request says so.
    pub(crate) add_special_tokens: Option<bool>,
    /// Keep the last so many prompt tokens.
    pub(crate) truncate: Option<u32>,
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

/// Everything that was true at the token that ended a generation. Dialects differ in which they report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Finish {
    /// It was the last that the bound allows.
    pub(crate) length: bool,
    /// It is one of the model's end tokens.
    pub(crate) end_token: bool,
    /// It completed a stop string.
    pub(crate) stop_string: bool,
}

/// One token and the text that it made visible.
#[derive(Debug)]
pub(crate) struct TextStep {
    pub(crate) token_id: u32,
    /// A control token; it has no visible text.
    pub(crate) special: bool,
    /// Concatenated over a generation this is its text.
    pub(crate) text: String,
    pub(crate) logprobs: Option<TokenLogprobs>,
    /// On the last token.
    pub(crate) finish: Option<Finish>,
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
        record.validated(prompt.ids.len(), max_new_tokens);
        let request = engine_request(&job, &prompt, &bad_words, max_new_tokens, &model.text.end_token_ids);
        requests.push((Arc::new(prompt), request));
    }
    let mut generations = Vec::new();
    for (prompt, request) in requests {
        for choice in 0..job.num_choices {
            let mut request = request.clone();
            request.sampling.seed = sampling::choice_seed(request.sampling.seed, choice);
            let text = TextState::new(&job, &prompt.ids, &model.text, &request);
            let generation = model.engine.submit(request).await?;
            generations.push(TextGeneration {
                generation: Some(generation),
                index: generations.len(),
                choice,
                prompt: Arc::clone(&prompt),
                text,
                prompt_logprobs: Vec::new(),
                num_cached_tokens: 0,
                num_generated_tokens: 0,
            });
        }
    }
    Ok((generations, permit))
}

/// A prompt in both forms.
#[derive(Debug)]
pub(crate) struct EncodedPrompt {
    /// As it was given or rendered; empty for a prompt of ids.
    pub(crate) text: String,
    /// After truncation.
    pub(crate) ids: Vec<u32>,
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
        Prompt::Ids(ids) => return Ok(EncodedPrompt { text: String::new(), ids: keep_last(ids, job.truncate) }),
        Prompt::Text(text) => (text, true),
        Prompt::Chat(inputs) => (render(model_text, &inputs)?, false),
    };
    validation::prompt_bytes(job.dialect, &text, max_bytes)?;
    let ids = model_text.tokenizer.encode_ids(&text, job.add_special_tokens.unwrap_or(add_special))?;
    Ok(EncodedPrompt { text, ids: keep_last(ids, job.truncate) })
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
        max_new_tokens,
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

/// What turns ids into text, and knows which token is the last.
#[derive(Debug)]
struct TextState {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: Stops,
    stop_text: StopText,
    stop_token_ids: Vec<u32>,
    max_new_tokens: u32,
    min_new_tokens: u32,
    /// That the noise comes from; `None` for a greedy choice.
    seed: Option<u64>,
}

impl TextState {
    fn new(job: &Job, prompt_ids: &[u32], text: &ModelText, request: &EngineRequest) -> Self {
        let stops = match job.stop_text {
            StopText::Keep => Stops::Keep(KeptStops::new(job.stops.clone())),
            StopText::Trim => Stops::Trim(StopStrings::new(job.stops.clone())),
        };
        Self {
            tokenizer: Arc::clone(&text.tokenizer),
            detokenizer: Detokenizer::new(Arc::clone(&text.tokenizer), prompt_ids, job.skip_special_tokens),
            stops,
            stop_text: job.stop_text,
            stop_token_ids: request.stop_token_ids.clone(),
            max_new_tokens: request.max_new_tokens,
            min_new_tokens: request.min_new_tokens,
            seed: (!job.sampling.is_greedy()).then_some(request.sampling.seed),
        }
    }

    /// The step of token `index` (from 1). The end is derived from the same rules as the scheduler's, not awaited from
    /// it: the last token must be known as such when it is written, and waiting for the next event would hold every
    /// token back by a step.
    fn step(&mut self, token_id: u32, index: u32, logprobs: Option<TokenLogprobs>) -> TextStep {
        let length = index >= self.max_new_tokens;
        let end_token = index > self.min_new_tokens && self.stop_token_ids.contains(&token_id);
        let ends = length || end_token;
        let hidden = end_token && self.stop_text == StopText::Trim;
        let mut piece = if hidden { String::new() } else { self.detokenizer.push(token_id) };
        if ends {
            piece.push_str(&self.detokenizer.finish());
        }
        let (mut text, mut stop_string) = self.stops.push(&piece);
        if ends && !stop_string {
            let (held_back, stopped) = self.stops.finish();
            text.push_str(&held_back);
            stop_string = stopped;
        }
        TextStep {
            token_id,
            special: self.tokenizer.is_special(token_id),
            text,
            logprobs,
            finish: (ends || stop_string).then_some(Finish { length, end_token, stop_string }),
        }
    }
}

/// One generation as text. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct TextGeneration {
    generation: Option<Generation>,
    index: usize,
    /// Which choice of its prompt.
    choice: u32,
    prompt: Arc<EncodedPrompt>,
    text: TextState,
    prompt_logprobs: Vec<PromptLogprob>,
    num_cached_tokens: u32,
    num_generated_tokens: u32,
}

impl TextGeneration {
    /// The next token; `None` after the last one or an error.
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        record: &mut RequestRecord,
    ) -> Poll<Option<Result<TextStep, ApiError>>> {
        let Some(generation) = self.generation.as_mut() else { return Poll::Ready(None) };
        let result = loop {
            let event = match ready!(generation.poll_next(context)) {
                None => break Err(ApiError::IncompleteGeneration),
                Some(Err(error)) => break Err(error.into()),
                Some(Ok(event)) => event,
            };
            match event {
                GenerationEvent::Started { num_cached_tokens, queued_for } => {
                    self.num_cached_tokens = num_cached_tokens;
                    record.started(queued_for);
                }
                GenerationEvent::PromptLogprobs(chunk) => self.prompt_logprobs.extend(chunk),
                GenerationEvent::Token { token_id, logprobs } => {
                    record.token();
                    self.num_generated_tokens += 1;
                    break Ok(self.text.step(token_id, self.num_generated_tokens, logprobs));
                }
                GenerationEvent::Finished(reason) => break Err(unexpected_end(reason)),
            }
        };
        if result.as_ref().map_or(true, |step| step.finish.is_some()) {
            self.generation = None;
        }
        Poll::Ready(Some(result))
    }

    /// It yields nothing more.
    pub(crate) fn has_ended(&self) -> bool {
        self.generation.is_none()
    }

    pub(crate) fn cancel(&mut self) {
        self.generation = None;
    }

    /// Among all generations of its request.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Whether it is the first choice of its prompt.
    pub(crate) fn is_first_choice(&self) -> bool {
        self.choice == 0
    }

    /// Prompt tokens that were found computed.
    pub(crate) fn num_cached_tokens(&self) -> u32 {
        self.num_cached_tokens
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.text.tokenizer
    }

    pub(crate) fn prompt(&self) -> &EncodedPrompt {
        &self.prompt
    }

    /// In position order; whole once the first token is there.
    pub(crate) fn prompt_logprobs(&self) -> &[PromptLogprob] {
        &self.prompt_logprobs
    }

    pub(crate) fn num_prompt_tokens(&self) -> usize {
        self.prompt.ids.len()
    }

    pub(crate) fn num_generated_tokens(&self) -> u32 {
        self.num_generated_tokens
    }

    /// The seed that the noise came from; `None` for a greedy choice.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.text.seed
    }
}

/// The engine ended it before the token that our rules call the last.
fn unexpected_end(reason: FinishReason) -> ApiError {
    match reason {
        FinishReason::StopToken(_) | FinishReason::Length => ApiError::IncompleteGeneration,
        FinishReason::Deadline => ApiError::Deadline("the request's deadline passed".to_owned()),
        FinishReason::Failed { kind, message } => ApiError::of_sequence(kind, message),
        FinishReason::NoLongerFits(_) | FinishReason::Quarantined { .. } => {
            ApiError::Generation("the worker group was lost".to_owned())
        }
    }
}
