//! The live requests and their channels: turns the scheduler's events into what each reader gets.
//!
//! Never waits: a channel holds `max_buffered_events` and one place more, which is kept for the end of the stream, so
//! a reader that lags is told so and cancelled while everybody else goes on.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use forebay_scheduler::{Event, FinishReason, NewRequest, RequestId, SequenceRef, Time};
use forebay_wire::SamplingParams;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use crate::convert::{Answer, row_flags};
use crate::error::EngineError;
use crate::handle::{EngineRequest, GenerationEvent, PromptLogprob};
use crate::metrics::Meters;
use crate::place::Place;

/// What a reader gets.
pub(crate) type Delivery = Result<GenerationEvent, EngineError>;

/// A request on its way to the driver.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: RequestId,
    pub(crate) request: EngineRequest,
    pub(crate) events: mpsc::Sender<Delivery>,
    pub(crate) place: Weak<Place>,
}

/// One request between its admission and its end.
#[derive(Debug)]
pub(crate) struct Live {
    events: mpsc::Sender<Delivery>,
    /// Its reader's.
    place: Weak<Place>,
    sampling: SamplingParams,
    logprobs: bool,
    submitted_at: Time,
    deadline: Option<Time>,
    started_at: Option<Time>,
    last_token_at: Option<Time>,
    num_generated: u32,
    /// Its present name in the worker, for prompt log-probabilities.
    sequence: Option<SequenceRef>,
    /// Prompt log-probabilities before this position were delivered (a preempted prompt is computed again).
    next_prompt_position: u32,
}

/// All requests that the scheduler knows.
pub(crate) struct Requests {
    live: FxHashMap<RequestId, Live>,
    max_buffered_events: usize,
    meters: Meters,
}

/// The scheduler's form of a submission.
pub(crate) fn scheduler_request(id: RequestId, request: &mut EngineRequest, now: Time) -> NewRequest {
    let mut stop_token_ids = std::mem::take(&mut request.stop_token_ids);
    stop_token_ids.sort_unstable();
    let token_ids = std::mem::take(&mut request.token_ids);
    NewRequest {
        id,
        num_prompt_tokens: token_ids.len() as u32,
        token_ids,
        max_new_tokens: request.max_new_tokens,
        min_new_tokens: request.min_new_tokens,
        stop_token_ids,
        priority: request.priority,
        deadline: deadline(request, now),
        cache_salt: request.cache_salt,
        row_flags: row_flags(request),
        reuse_prefix: !request.prompt_logprobs,
    }
}

fn deadline(request: &EngineRequest, now: Time) -> Option<Time> {
    let timeout = request.timeout?.as_micros();
    Some(Time(now.0.saturating_add(u64::try_from(timeout).unwrap_or(u64::MAX))))
}

impl Requests {
    pub(crate) fn new(max_buffered_events: usize, meters: Meters) -> Self {
        Self { live: FxHashMap::default(), max_buffered_events, meters }
    }

    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
    }

    pub(crate) fn meters_mut(&mut self) -> &mut Meters {
        &mut self.meters
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Keeps what the scheduler does not: the channel and the sampling parameters.
    pub(crate) fn insert(&mut self, submission: Submission, now: Time) {
        let Submission { id, request, events, place } = submission;
        let live = Live {
            events,
            place,
            logprobs: request.logprobs,
            submitted_at: now,
            deadline: deadline(&request, now),
            sampling: request.sampling,
            started_at: None,
            last_token_at: None,
            num_generated: 0,
            sequence: None,
            next_prompt_position: 0,
        };
        self.live.insert(id, live);
    }

    /// Takes over one that another group had.
    pub(crate) fn adopt(&mut self, id: RequestId, live: Live) {
        self.live.insert(id, live);
    }

    /// Gives one up to another group.
    pub(crate) fn give_away(&mut self, id: RequestId) -> Option<Live> {
        self.live.remove(&id)
    }

    /// Its reader is gone. True if it was live.
    pub(crate) fn remove(&mut self, id: RequestId) -> bool {
        let was_live = self.live.remove(&id).is_some();
        if was_live {
            self.meters.cancelled.increment(1);
        }
        was_live
    }

    pub(crate) fn sampling(&self, id: RequestId) -> Option<&SamplingParams> {
        self.live.get(&id).map(|live| &live.sampling)
    }

    /// A plan gives the request a place in the worker.
    pub(crate) fn placed(&mut self, id: RequestId, sequence: SequenceRef) {
        if let Some(live) = self.live.get_mut(&id) {
            live.sequence = Some(sequence);
        }
    }

    /// Those whose deadline has passed; for times when no scheduler looks.
    pub(crate) fn expired(&self, now: Time) -> Vec<RequestId> {
        let mut ids: Vec<_> =
            self.live.iter().filter(|(_, live)| live.deadline.is_some_and(|at| at <= now)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// When the next deadline passes.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.live.values().filter_map(|live| live.deadline).min()
    }

    /// Ends one with an error.
    pub(crate) fn fail(&mut self, id: RequestId, error: EngineError) {
        if let Some(live) = self.live.remove(&id) {
            live.end(Err(error));
        }
    }

    /// Ends all with the same error; answers who they were.
    pub(crate) fn fail_all(&mut self, error: &EngineError) -> Vec<RequestId> {
        let live = std::mem::take(&mut self.live);
        let mut ids: Vec<_> = live.keys().copied().collect();
        ids.sort_unstable();
        for live in live.into_values() {
            live.end(Err(error.clone()));
        }
        ids
    }

    /// The worker that knew them is gone: names of its sequences mean others from now on.
    pub(crate) fn displace_all(&mut self) {
        for live in self.live.values_mut() {
            live.sequence = None;
        }
    }

    /// Delivers one event. `answer` is the result it came from, if any. Answers whom it had to cancel: the
    /// scheduler must drop that one too.
    #[must_use]
    pub(crate) fn deliver(&mut self, event: Event, now: Time, answer: Option<&Answer>) -> Option<RequestId> {
        match event {
            Event::Started { id, num_cached_tokens } => {
                self.update(id, |live, meters| Some(Ok(live.started(num_cached_tokens, now, meters))))
            }
            Event::Token { id, token_id, result_index, .. } => {
                self.update(id, |live, meters| Some(live.token(token_id, result_index, answer, now, meters)))
            }
            Event::Finished { id, reason } => {
                if let Some(live) = self.live.remove(&id) {
                    live.finished(reason, now, &self.meters);
                }
                None
            }
        }
    }

    /// Delivers the prompt log-probabilities of a result; answers whom that cancelled.
    pub(crate) fn deliver_prompt_logprobs(&mut self, answer: &mut Answer) -> Vec<RequestId> {
        let mut cancelled = Vec::new();
        for (sequence, entries) in answer.prompt_logprobs.drain(..) {
            // Rare enough (only requests that asked, only their prompt's steps) to be looked for.
            let owner = self.live.iter().find(|(_, live)| live.sequence == Some(sequence)).map(|(id, _)| *id);
            let Some(id) = owner else { continue };
            cancelled.extend(self.update(id, |live, _| live.prompt_logprobs(entries)));
        }
        cancelled
    }

    /// Runs `change` on a live request and sends what it yields. Answers the request if that had to cancel it.
    fn update(
        &mut self,
        id: RequestId,
        change: impl FnOnce(&mut Live, &Meters) -> Option<Delivery>,
    ) -> Option<RequestId> {
        let live = self.live.get_mut(&id)?;
        let delivery = change(live, &self.meters)?;
        // The last place is for the end.
        let delivery = if live.events.capacity() > 1 {
            delivery
        } else {
            self.meters.slow_readers.increment(1);
            Err(EngineError::SlowReader { limit: self.max_buffered_events })
        };
        let cancelled = delivery.is_err().then_some(id);
        // A closed channel: the reader is gone, and its word of that is on the way.
        let _ = live.events.try_send(delivery);
        if cancelled.is_some() {
            self.live.remove(&id);
        }
        cancelled
    }
}

impl Live {
    /// `None`: the reader is gone.
    pub(crate) fn place(&self) -> Option<Arc<Place>> {
        self.place.upgrade()
    }

    fn started(&mut self, num_cached_tokens: u32, now: Time, meters: &Meters) -> GenerationEvent {
        let queued_for = since(self.submitted_at, now);
        self.started_at = Some(now);
        meters.queue_duration.record(queued_for);
        GenerationEvent::Started { num_cached_tokens, queued_for }
    }

    fn token(
        &mut self,
        token_id: u32,
        result_index: usize,
        answer: Option<&Answer>,
        now: Time,
        meters: &Meters,
    ) -> Delivery {
        match self.last_token_at {
            Some(last) => meters.inter_token_latency.record(since(last, now)),
            None => meters.time_to_first_token.record(since(self.submitted_at, now)),
        }
        meters.generated_tokens.increment(1);
        self.last_token_at = Some(now);
        self.num_generated += 1;
        let logprobs = answer.filter(|_| self.logprobs).and_then(|answer| answer.logprobs.get(result_index));
        if self.logprobs && logprobs.is_none() {
            return Err(EngineError::Sequence {
                kind: 0,
                message: format!("the worker gave no log-probability for token `{token_id}`"),
            });
        }
        let received = answer.map_or_else(Instant::now, |answer| answer.received);
        Ok(GenerationEvent::Token { token_id, logprobs, received })
    }

    fn prompt_logprobs(&mut self, mut entries: Vec<PromptLogprob>) -> Option<Delivery> {
        entries.retain(|entry| entry.position >= self.next_prompt_position);
        self.next_prompt_position = entries.last()?.position + 1;
        Some(Ok(GenerationEvent::PromptLogprobs(entries)))
    }

    fn finished(self, reason: FinishReason, now: Time, meters: &Meters) {
        let end = match reason {
            FinishReason::StopToken(_) | FinishReason::Length => {
                self.record_inference(now, meters);
                Ok(GenerationEvent::Finished(reason))
            }
            FinishReason::Deadline => Err(EngineError::Deadline),
            FinishReason::NoLongerFits(error) => {
                Err(EngineError::GroupLost(format!("its workers came back with smaller limits: {error}")))
            }
            FinishReason::Quarantined { num_deaths } => Err(EngineError::Quarantined { num_deaths }),
            FinishReason::Failed { kind, message } => {
                meters.sequence_error(kind);
                Err(EngineError::Sequence { kind, message })
            }
        };
        self.end(end);
    }

    fn record_inference(&self, now: Time, meters: &Meters) {
        let took = since(self.started_at.unwrap_or(now), now);
        meters.inference_duration.record(took);
        meters.time_per_token.record(took / self.num_generated.max(1));
    }

    /// The last place of the channel is kept for this, so it always fits.
    pub(crate) fn end(self, delivery: Delivery) {
        let _ = self.events.try_send(delivery);
    }
}

fn since(earlier: Time, now: Time) -> Duration {
    Duration::from_micros(now.0.saturating_sub(earlier.0))
}
