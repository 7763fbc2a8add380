//! One generation as text: ids become pieces of text that never end in half a character, stop strings are found, and the
//! last token is known as such when it comes. It knows no dialect's JSON.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use forebay_engine::{EngineRequest, FinishReason, Generation, GenerationEvent, PromptLogprob, TokenLogprobs};
use forebay_text::{Detokenizer, ModelText, StopStrings, Tokenizer};

use crate::error::ApiError;
use crate::generate::{Job, StopText};
use crate::stops::{KeptStops, Stops};
use crate::telemetry::RequestRecord;

/// A prompt in both forms.
#[derive(Debug)]
pub(crate) struct EncodedPrompt {
    /// As it was given or rendered; of a prompt of ids what they decode to, if it is to be shown, or else nothing.
    pub(crate) text: String,
    /// After truncation.
    pub(crate) ids: Vec<u32>,
    /// Where in `text` each token begins, in characters; empty unless the prompt is to be shown.
    pub(crate) starts: Vec<usize>,
    /// Of each token but the first, in order, as soon as the first choice has a token: it asks for all of them. `None` if
    /// nobody wants them.
    logprobs: Option<OnceLock<Vec<PromptLogprob>>>,
}

impl EncodedPrompt {
    pub(crate) fn new(text: String, ids: Vec<u32>, starts: Vec<usize>, wants_logprobs: bool) -> Self {
        Self { text, ids, starts, logprobs: wants_logprobs.then(OnceLock::new) }
    }

    /// Every token with its log-probabilities; `None` for the first, which nothing comes before.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = (u32, Option<&PromptLogprob>)> {
        let logprobs = self.logprobs.as_ref().and_then(OnceLock::get).map_or(&[][..], Vec::as_slice);
        let scored = |at: u32| logprobs.binary_search_by_key(&at, |entry| entry.position).ok();
        self.ids.iter().zip(0..).map(move |(&id, at)| (id, scored(at).map(|index| &logprobs[index])))
    }

    fn awaits_logprobs(&self) -> bool {
        self.logprobs.as_ref().is_some_and(|logprobs| logprobs.get().is_none())
    }

    /// Takes what the first choice has gathered by its first token.
    fn set_logprobs(&self, gathered: &mut Vec<PromptLogprob>) {
        if let Some(logprobs) = &self.logprobs {
            logprobs.get_or_init(|| std::mem::take(gathered));
        }
    }
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

/// One token and the text that it made visible. Where nothing is to be generated it is the token that the engine had to
/// make, without text and log-probability.
#[derive(Debug)]
pub(crate) struct TextStep {
    pub(crate) token_id: u32,
    /// A control token; it has no visible text.
    pub(crate) special: bool,
    /// Where its text begins in the text that was generated, in characters. What is shown may be behind that, as long
    /// as it may be the beginning of a stop, and may never reach it.
    pub(crate) offset: usize,
    /// Concatenated over a generation this is its text.
    pub(crate) text: String,
    pub(crate) logprobs: Option<TokenLogprobs>,
    /// When the engine had it.
    pub(crate) received: Instant,
    /// On the last token.
    pub(crate) finish: Option<Finish>,
}

/// What turns ids into text, and knows which token is the last.
#[derive(Debug)]
pub(crate) struct TextState {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: Stops,
    stop_text: StopText,
    stop_token_ids: Vec<u32>,
    /// 0: the token that comes is not wanted.
    max_new_tokens: u32,
    min_new_tokens: u32,
    /// Generated so far, what is held back and what was trimmed included.
    num_characters: usize,
    /// That the noise comes from; `None` for a greedy choice.
    seed: Option<u64>,
}

impl TextState {
    pub(crate) fn new(job: &Job, prompt_ids: &[u32], text: &ModelText, request: &EngineRequest) -> Self {
        let stops = match job.stop_text {
            StopText::Keep => Stops::Keep(KeptStops::new(job.stops.clone())),
            StopText::Trim => Stops::Trim(StopStrings::new(job.stops.clone())),
        };
        let max_new_tokens =
            job.max_new_tokens.map_or(request.max_new_tokens, |asked| asked.min(request.max_new_tokens));
        Self {
            tokenizer: Arc::clone(&text.tokenizer),
            detokenizer: Detokenizer::new(Arc::clone(&text.tokenizer), prompt_ids, job.skip_special_tokens),
            stops,
            stop_text: job.stop_text,
            stop_token_ids: request.stop_token_ids.clone(),
            max_new_tokens,
            min_new_tokens: request.min_new_tokens,
            num_characters: 0,
            seed: (!job.sampling.is_greedy()).then_some(request.sampling.seed),
        }
    }

    /// The step of token `index` (from 1). The end is derived from the same rules as the scheduler's, not awaited from
    /// it: the last token must be known as such when it is written, and waiting for the next event would hold every
    /// token back by a step.
    fn step(&mut self, token_id: u32, index: u32, logprobs: Option<TokenLogprobs>, received: Instant) -> TextStep {
        let length = index >= self.max_new_tokens;
        let may_stop = index > self.min_new_tokens;
        let end_token = may_stop && self.stop_token_ids.contains(&token_id);
        let ends = length || end_token;
        let hidden = end_token && self.stop_text == StopText::Trim;
        let offset = self.num_characters;
        let mut piece = if hidden { String::new() } else { self.detokenizer.push(token_id) };
        if ends {
            piece.push_str(&self.detokenizer.finish());
        }
        self.num_characters += piece.chars().count();
        let (mut text, mut stop_string) =
            if may_stop { self.stops.push(&piece) } else { (self.stops.pass(&piece), false) };
        if ends && !stop_string {
            let (held_back, stopped) = self.stops.finish();
            text.push_str(&held_back);
            stop_string = stopped;
        }
        TextStep {
            token_id,
            special: self.tokenizer.is_special(token_id),
            offset,
            text,
            logprobs,
            received,
            finish: (ends || stop_string).then_some(Finish { length, end_token, stop_string }),
        }
    }

    /// The only step where nothing is to be generated.
    fn unwanted(&self, token_id: u32, received: Instant) -> TextStep {
        let special = self.tokenizer.is_special(token_id);
        let finish = Some(Finish { length: true, ..Finish::default() });
        TextStep { token_id, special, offset: 0, text: String::new(), logprobs: None, received, finish }
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
    /// Gathered by the first choice.
    prompt_logprobs: Vec<PromptLogprob>,
    num_cached_tokens: u32,
    num_generated_tokens: u32,
    sum_logprobs: f32,
}

impl TextGeneration {
    /// `index` among all of its request, `choice` among those of `prompt`.
    pub(crate) fn new(
        generation: Generation,
        text: TextState,
        prompt: Arc<EncodedPrompt>,
        index: usize,
        choice: u32,
    ) -> Self {
        Self {
            generation: Some(generation),
            index,
            choice,
            prompt,
            text,
            prompt_logprobs: Vec::new(),
            num_cached_tokens: 0,
            num_generated_tokens: 0,
            sum_logprobs: 0.0,
        }
    }

    /// The next token; `None` after the last one or an error. The other choices of a prompt whose log-probabilities are
    /// wanted wait for the first, whose task wakes them: it is the same.
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        record: &mut RequestRecord,
    ) -> Poll<Option<Result<TextStep, ApiError>>> {
        let Some(generation) = self.generation.as_mut() else { return Poll::Ready(None) };
        if self.choice > 0 && self.prompt.awaits_logprobs() {
            return Poll::Pending;
        }
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
                GenerationEvent::Token { token_id, logprobs, received } => {
                    self.prompt.set_logprobs(&mut self.prompt_logprobs);
                    if self.text.max_new_tokens == 0 {
                        break Ok(self.text.unwanted(token_id, received));
                    }
                    record.token();
                    self.num_generated_tokens += 1;
                    self.sum_logprobs += logprobs.as_ref().map_or(0.0, |logprobs| logprobs.logprob);
                    break Ok(self.text.step(token_id, self.num_generated_tokens, logprobs, received));
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

    pub(crate) fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.text.tokenizer
    }

    pub(crate) fn prompt(&self) -> &Arc<EncodedPrompt> {
        &self.prompt
    }

    pub(crate) fn num_prompt_tokens(&self) -> usize {
        self.prompt.ids.len()
    }

    pub(crate) fn num_generated_tokens(&self) -> u32 {
        self.num_generated_tokens
    }

    /// Of its tokens so far, which must have been asked for theirs: what the best of several is chosen by.
    pub(crate) fn mean_logprob(&self) -> f32 {
        self.sum_logprobs / self.num_generated_tokens.max(1) as f32
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
