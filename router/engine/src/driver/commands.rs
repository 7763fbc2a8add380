//! What handles, and the drivers of other groups, ask of a driver.

use std::time::Duration;

use forebay_scheduler::{NewRequest, SubmitError, Time};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Driver;
use crate::error::EngineError;
use crate::handle::{Command, EngineState, unavailable};
use crate::place::Moved;
use crate::requests::{Submission, scheduler_request};

/// An order to finish.
pub(super) struct Drain {
    pub(super) deadline: Instant,
    pub(super) waiters: Vec<oneshot::Sender<()>>,
}

impl Driver {
    pub(super) fn take_commands(&mut self, received: usize) {
        self.abandoned |= received == 0;
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.drain(..).for_each(|command| self.take_command(command));
        self.inbox = inbox;
    }

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Probe { token_ids, cache_salt, reply } => {
                let found = self.scheduler.as_ref().map(|known| known.prefix_match_len(&token_ids, cache_salt));
                let _ = reply.send(found.unwrap_or(0));
            }
            Command::Adopt(moved) => self.adopt(*moved),
            // A caller that is gone by now has dropped its `Generation`: the cancel follows.
            Command::Submit { submission, reply } => drop(reply.send(self.admit(*submission))),
            Command::Cancel(id) => {
                if self.requests.remove(id) {
                    self.cancel_in_scheduler(id);
                }
            }
            Command::Drain { deadline, done } => self.start_drain(Instant::now() + deadline, done),
        }
    }

    fn admit(&mut self, mut submission: Submission) -> Result<(), EngineError> {
        let state = self.report.state();
        // While the group restarts, the line goes on and keeps its bounds.
        let takes = matches!(state, EngineState::Ready | EngineState::Restarting(_));
        let Some(scheduler) = self.scheduler.as_mut().filter(|_| takes) else {
            return Err(EngineError::Unavailable(unavailable(&state)));
        };
        let now = Time(self.epoch.elapsed().as_micros() as u64);
        let request = scheduler_request(submission.id, &mut submission.request, now);
        let request = NewRequest { reuse_prefix: request.reuse_prefix && self.config.prefix_caching, ..request };
        scheduler.submit(request, now).map_err(|error| refusal(&error))?;
        self.requests.insert(submission, now);
        Ok(())
    }

    /// Takes a request over from a group that was given up.
    fn adopt(&mut self, moved: Moved) {
        let Moved { evacuee, live } = moved;
        let id = evacuee.request.id;
        let refusal = match &mut self.scheduler {
            Some(scheduler) => scheduler.adopt(evacuee).err().map(|error| error.to_string()),
            // A bug of ours has just cost it its scheduler.
            None => Some("it restarts too".to_owned()),
        };
        match refusal {
            None => self.requests.adopt(id, live),
            Some(why) => live.end(Err(EngineError::GroupLost(format!("another group cannot take it over: {why}")))),
        }
    }

    /// Nothing more can be sent; what has been is taken.
    pub(super) fn take_last_commands(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.take_command(command);
        }
    }

    fn start_drain(&mut self, deadline: Instant, done: oneshot::Sender<()>) {
        self.set_state(EngineState::Draining);
        let drain = self.drain.get_or_insert(Drain { deadline, waiters: Vec::new() });
        drain.deadline = drain.deadline.min(deadline);
        drain.waiters.push(done);
    }
}

fn refusal(error: &SubmitError) -> EngineError {
    match error {
        SubmitError::QueueFull { retry_after_ms, .. } | SubmitError::QueueTokensFull { retry_after_ms, .. } => {
            let retry_after = Duration::from_millis(*retry_after_ms);
            EngineError::Overloaded { message: error.to_string(), retry_after }
        }
        SubmitError::NeverFits { .. } | SubmitError::TooLong { .. } | SubmitError::Empty => {
            EngineError::Invalid(error.to_string())
        }
    }
}
