//! The waiting line: order, bounds, and how fast it drains.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use crate::limits::Limits;
use crate::request::{SubmitError, Time};
use crate::sequence::Rank;
use crate::sequence_table::SequenceKey;

/// Departures that the drain rate is measured over.
const MAX_DEPARTURES: usize = 32;
/// Told while nothing has ever left the line.
const DEFAULT_RETRY_MS: u64 = 1_000;
const MAX_RETRY_MS: u64 = 60_000;

/// Who waits, best rank first. A preempted sequence keeps its rank, so it stands before all that came after it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<Rank, (SequenceKey, u32)>,
    num_prompt_tokens: u64,
    /// When the last few first left the line, and with how many prompt tokens.
    departures: VecDeque<(Time, u32)>,
}

impl Queue {
    /// Whether a newcomer with this prompt may join. A prompt above the token bound may wait alone: the bound shapes
    /// the line, it does not forbid a request that the worker can hold.
    pub(crate) fn check_room(&self, num_prompt_tokens: u32, limits: &Limits, now: Time) -> Result<(), SubmitError> {
        let queued = self.len();
        if queued >= limits.max_queued {
            let retry_after_ms = self.retry_after_ms(now, |_| 1, 1);
            return Err(SubmitError::QueueFull { queued, limit: limits.max_queued, retry_after_ms });
        }
        let limit = limits.max_queued_tokens;
        let queued_tokens = self.num_prompt_tokens;
        let wanted = queued_tokens + u64::from(num_prompt_tokens);
        if queued > 0 && wanted > limit {
            let retry_after_ms = self.retry_after_ms(now, u64::from, wanted - limit);
            return Err(SubmitError::QueueTokensFull { queued_tokens, limit, retry_after_ms });
        }
        Ok(())
    }

    /// How long, at the rate of the last departures, until `excess` (weighed by `weight`) has left.
    fn retry_after_ms(&self, now: Time, weight: impl Fn(u32) -> u64, excess: u64) -> u64 {
        let Some(&(first, _)) = self.departures.front() else { return DEFAULT_RETRY_MS };
        let span_us = u128::from(now.0.saturating_sub(first.0));
        let left: u64 = self.departures.iter().map(|&(_, num_tokens)| weight(num_tokens)).sum();
        let wait_ms = span_us * u128::from(excess) / u128::from(left.max(1)) / 1_000;
        wait_ms.clamp(1, u128::from(MAX_RETRY_MS)) as u64
    }

    pub(crate) fn insert(&mut self, rank: Rank, key: SequenceKey, num_prompt_tokens: u32) {
        let replaced = self.waiting.insert(rank, (key, num_prompt_tokens));
        debug_assert!(replaced.is_none(), "{rank:?} waits twice");
        self.num_prompt_tokens += u64::from(num_prompt_tokens);
    }

    pub(crate) fn remove(&mut self, rank: Rank) {
        if let Some((_, num_prompt_tokens)) = self.waiting.remove(&rank) {
            self.num_prompt_tokens -= u64::from(num_prompt_tokens);
        }
    }

    /// Notes, for the drain rate, that a newcomer has left the line for a slot.
    pub(crate) fn note_departure(&mut self, now: Time, num_prompt_tokens: u32) {
        if self.departures.len() == MAX_DEPARTURES {
            self.departures.pop_front();
        }
        self.departures.push_back((now, num_prompt_tokens));
    }

    /// Who stands behind `rank`; the first of all behind `None`.
    pub(crate) fn next_behind(&self, rank: Option<Rank>) -> Option<(Rank, SequenceKey)> {
        let behind = rank.map_or(Unbounded, Excluded);
        self.waiting.range((behind, Unbounded)).next().map(|(&rank, &(key, _))| (rank, key))
    }

    pub(crate) fn len(&self) -> u32 {
        self.waiting.len() as u32
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.num_prompt_tokens = 0;
    }

    pub(crate) fn num_prompt_tokens(&self) -> u64 {
        self.num_prompt_tokens
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Rank, SequenceKey, u32)> {
        self.waiting.iter().map(|(&rank, &(key, num_prompt_tokens))| (rank, key, num_prompt_tokens))
    }
}
