//! The generations of one request, read as one: the choices of each prompt, in index order. Dropping them cancels all.

use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::sync::OwnedSemaphorePermit;

use crate::error::ApiError;
use crate::telemetry::{RequestRecord, Timings};
use crate::text_generation::{TextGeneration, TextStep};

/// Generations that one request may ask for: prompts times choices.
pub const MAX_CHOICES: u32 = 128;

/// A request's generations. The first error ends all of them.
#[derive(Debug)]
pub(crate) struct Choices {
    generations: Vec<TextGeneration>,
    /// Where the next look begins, so that no choice is always the last to be written.
    next_at: usize,
    record: RequestRecord,
    _permit: OwnedSemaphorePermit,
}

impl Choices {
    pub(crate) fn new(generations: Vec<TextGeneration>, record: RequestRecord, permit: OwnedSemaphorePermit) -> Self {
        Self { generations, next_at: 0, record, _permit: permit }
    }

    /// The next token of any choice, and whose it is; `None` after the last one of all or an error.
    pub(crate) async fn next(&mut self) -> Option<Result<(TextStep, &TextGeneration), ApiError>> {
        let (at, result) = poll_fn(|context| self.poll_any(context)).await?;
        match result {
            Ok(step) => {
                if self.generations.iter().all(TextGeneration::has_ended) {
                    self.record.succeeded();
                }
                Some(Ok((step, &self.generations[at])))
            }
            Err(error) => {
                self.record.failed(&error);
                self.generations.iter_mut().for_each(TextGeneration::cancel);
                Some(Err(error))
            }
        }
    }

    fn poll_any(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Result<TextStep, ApiError>)>> {
        let count = self.generations.len();
        let mut any_waits = false;
        for at in (self.next_at..count).chain(0..self.next_at) {
            match self.generations[at].poll_next(context, &mut self.record) {
                Poll::Ready(Some(result)) => {
                    self.next_at = (at + 1) % count;
                    return Poll::Ready(Some((at, result)));
                }
                Poll::Ready(None) => {}
                Poll::Pending => any_waits = true,
            }
        }
        if any_waits { Poll::Pending } else { Poll::Ready(None) }
    }

    /// In index order.
    pub(crate) fn generations(&self) -> &[TextGeneration] {
        &self.generations
    }

    pub(crate) fn timings(&self) -> Timings {
        self.record.timings()
    }
}
