//! The one loop: take commands, `next_plan`, send, take an answer, `apply`, deliver; one step ahead.
//!
//! One task owns the scheduler, so nothing here is locked or shared. The loop sleeps until a command, an answer, the
//! group's exit, its silence or a deadline wakes it; then it does all there is to do and plans again. It never waits
//! for a reader. What starts, ends and replaces the group is `lifecycle.rs`.

mod commands;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use forebay_scheduler::{Event, RequestId, Scheduler, StepPlan, Time};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use self::commands::Drain;
use crate::convert::{Answer, plan_to_wire};
use crate::error::{EngineError, GroupError};
use crate::group::GroupExit;
use crate::handle::{Command, EngineConfig, EngineState, WorkerInfo, unavailable};
use crate::handshake::limits;
use crate::metrics::{Meters, Method};
use crate::place::{Moved, Peers};
use crate::requests::Requests;
use crate::shards::{Broken, Shards, exit_words};
use crate::shared::GroupReport;

/// Commands taken in one turn, so that a flood of submissions cannot keep results waiting.
const MAX_COMMANDS: usize = 256;

/// How long the timer sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// A dying process breaks its stream a moment before its exit is seen.
pub(crate) const EXIT_GRACE: Duration = Duration::from_millis(100);

/// How serving ended.
#[derive(Debug)]
pub(crate) enum Served {
    /// Drained, or nobody holds the engine any more.
    Stopped,
    /// The group must be killed and replaced.
    Lost(GroupError),
}

/// Owner of the scheduler and of every request's channel.
pub(crate) struct Driver {
    pub(crate) config: EngineConfig,
    report: GroupReport,
    peers: Peers,
    commands: mpsc::UnboundedReceiver<Command>,
    inbox: Vec<Command>,
    /// `None` until the first handshake tells the limits.
    scheduler: Option<Scheduler>,
    requests: Requests,
    events: Vec<Event>,
    in_flight: VecDeque<Method>,
    drain: Option<Drain>,
    made_progress: bool,
    /// Every handle and every generation is gone.
    abandoned: bool,
    epoch: Instant,
}

impl Driver {
    pub(crate) fn new(
        config: EngineConfig,
        report: GroupReport,
        peers: Peers,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        Self {
            epoch: report.began(),
            requests: Requests::new(config.max_buffered_events.max(1), Meters::new()),
            config,
            report,
            peers,
            commands,
            inbox: Vec::new(),
            scheduler: None,
            events: Vec::new(),
            in_flight: VecDeque::new(),
            drain: None,
            made_progress: false,
            abandoned: false,
        }
    }

    /// Serves with a ready group until it is lost or the engine stops.
    pub(crate) async fn serve(&mut self, mut shards: Shards, exited: impl Future<Output = GroupExit>) -> Served {
        tokio::pin!(exited);
        let silence = shards.silence(self.config.heartbeat);
        tokio::pin!(silence);
        let timer = sleep_until(Instant::now() + IDLE);
        tokio::pin!(timer);
        loop {
            if let Err(error) = self.send_plans(&mut shards) {
                return Served::Lost(error);
            }
            self.publish();
            if self.is_done() {
                return Served::Stopped;
            }
            self.arm(timer.as_mut(), &shards);
            let turn = tokio::select! {
                answered = shards.next_answer() => {
                    answered.and_then(|(answer, took)| self.take_answer(answer, took).map_err(Broken::from))
                }
                exit = &mut exited => {
                    let gone = || GroupError::Lost(exit_words(&exit));
                    return Served::Lost(shards.last_words().map_or_else(gone, |broken| broken.explained(Some(&exit))));
                }
                received = self.commands.recv_many(&mut self.inbox, MAX_COMMANDS) => {
                    self.take_commands(received);
                    Ok(())
                }
                lost = &mut silence => Err(Broken::from(lost)),
                () = timer.as_mut() => self.check_step_deadline(&shards).map_err(Broken::from),
            };
            if let Err(broken) = turn {
                return Served::Lost(broken.explained(timeout(EXIT_GRACE, exited).await.ok().as_ref()));
            }
        }
    }

    /// Runs `work` (a start, a pause, a kill) while commands and deadlines are still looked after.
    /// `None`: the engine is to stop; `work` is unfinished.
    pub(crate) async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            self.expire_waiting();
            self.publish();
            if self.is_done() {
                return None;
            }
            let deadline = self.requests.next_deadline().map(|at| self.instant(at));
            let due = deadline.into_iter().chain(self.drain.as_ref().map(|drain| drain.deadline)).min();
            tokio::select! {
                done = &mut work => return Some(done),
                received = self.commands.recv_many(&mut self.inbox, MAX_COMMANDS) => self.take_commands(received),
                () = sleep_until(due.unwrap_or_else(|| Instant::now() + IDLE)) => {}
            }
        }
    }

    /// A group agrees with itself and the router. Requests that its limits do not hold end; all others go on.
    pub(crate) fn group_ready(&mut self, info: WorkerInfo) {
        let offered = limits(&info, &self.config);
        let pool_tokens = u64::from(offered.num_blocks - 1) * u64::from(offered.block_size);
        self.requests.meters_mut().pool_sized(pool_tokens);
        match &mut self.scheduler {
            Some(scheduler) => scheduler.group_ready(offered, &mut self.events),
            None => self.scheduler = Some(Scheduler::new(offered)),
        }
        self.deliver(None);
        self.report.set_worker_info(info);
        self.requests.meters_mut().group_ready();
        self.made_progress = false;
        self.set_state(EngineState::Ready);
    }

    /// Blocks in the pool of the last group that was ready.
    pub(crate) fn num_blocks(&self) -> Option<u32> {
        self.scheduler.as_ref().map(|scheduler| scheduler.limits().num_blocks)
    }

    /// Whether the last group has computed anything.
    pub(crate) fn made_progress(&self) -> bool {
        self.made_progress
    }

    /// The group is gone: everybody waits for the next one, in line, with the tokens told so far; only who is known to
    /// have killed it ends.
    pub(crate) fn group_lost(&mut self, reason: &str) {
        self.set_state(EngineState::Restarting(reason.to_owned()));
        self.write_off_worker();
        let now = self.now();
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.group_lost(now, &mut self.events);
        }
        self.deliver(None);
        self.publish();
    }

    /// The group will not come back: whoever it has goes on with another one, where it stood, and ends with an error
    /// only where there is none.
    pub(crate) fn give_up(&mut self, reason: String) {
        self.set_state(EngineState::Failed(reason));
        self.take_last_commands();
        self.write_off_worker();
        let now = self.now();
        let evacuees = self.scheduler.as_mut().map_or_else(Vec::new, |known| known.evacuate(now, &mut self.events));
        self.deliver(None);
        let (states, num_evacuees) = (self.report.group_states(), evacuees.len());
        let error = EngineError::Unavailable(unavailable(&self.report.state()));
        let mut num_ended = 0;
        for evacuee in evacuees {
            let Some(live) = self.requests.give_away(evacuee.request.id) else { continue };
            if let Err(moved) = self.peers.hand_over(&states, Box::new(Moved { evacuee, live })) {
                moved.live.end(Err(error.clone()));
                num_ended += 1;
            }
        }
        let num_moved = num_evacuees - num_ended;
        tracing::warn!(num_moved, num_ended, "its requests go on with another group, or end where there is none");
        self.publish();
    }

    fn write_off_worker(&mut self) {
        self.requests.meters_mut().group_lost();
        for method in self.in_flight.drain(..) {
            self.requests.meters().step_failed(method);
        }
        self.requests.displace_all();
    }

    /// A bug has left the scheduler in an unknown state: nothing of it is trusted any more.
    pub(crate) fn forget_all(&mut self, reason: &str) {
        self.requests.fail_all(&EngineError::GroupLost(reason.to_owned()));
        self.scheduler = None;
        self.events.clear();
        self.inbox.clear();
    }

    /// Moves to `state`, but never away from draining.
    pub(crate) fn set_state(&self, state: EngineState) {
        if self.drain.is_none() {
            self.report.set_state(state);
        }
    }

    /// The last word to everybody: requests get an error, whoever waits for the drain an answer.
    pub(crate) fn stop(mut self) {
        self.take_last_commands();
        self.end_all();
        self.publish();
        self.requests.meters_mut().group_gone();
        for waiter in self.drain.into_iter().flat_map(|drain| drain.waiters) {
            let _ = waiter.send(());
        }
    }

    /// Sends as many plans as may be in flight.
    fn send_plans(&mut self, shards: &mut Shards) -> Result<(), GroupError> {
        loop {
            let began = Instant::now();
            let now = self.now();
            let Some(scheduler) = &mut self.scheduler else { return Ok(()) };
            let plan = scheduler.next_plan(now, &mut self.events);
            let planned = plan.as_ref().map_or(Ok(()), |plan| self.send_plan(plan, began, shards));
            self.deliver(None);
            if plan.is_none() || planned.is_err() {
                return planned;
            }
        }
    }

    fn send_plan(&mut self, plan: &StepPlan, began: Instant, shards: &mut Shards) -> Result<(), GroupError> {
        for new in &plan.new_sequences {
            self.requests.placed(new.id, new.sequence);
        }
        shards.send(&plan_to_wire(plan, |id| self.requests.sampling(id))?)?;
        self.requests.meters().step_sent(plan, began.elapsed());
        self.in_flight.push_back(Method::of(plan));
        Ok(())
    }

    fn take_answer(&mut self, mut answer: Answer, took: Duration) -> Result<(), GroupError> {
        self.record_answer(&answer, took);
        for id in self.requests.deliver_prompt_logprobs(&mut answer) {
            self.cancel_in_scheduler(id);
        }
        let now = self.now();
        let applied = match &mut self.scheduler {
            Some(scheduler) => scheduler.apply(&answer.result, now, &mut self.events),
            None => Ok(()),
        };
        self.deliver(Some(&answer));
        applied.map_err(|error| GroupError::Lost(error.to_string()))
    }

    fn record_answer(&mut self, answer: &Answer, took: Duration) {
        let Some(method) = self.in_flight.pop_front() else { return };
        let meters = self.requests.meters();
        let Some(error) = &answer.result.step_error else {
            self.made_progress = true;
            return meters.step_answered(method, took, answer.timings);
        };
        meters.step_failed(method);
        meters.step_error();
        tracing::warn!(step_id = answer.result.step_id, message = %error.message, "the worker failed a step");
    }

    /// Hands the pending events to their requests, each non-blocking.
    fn deliver(&mut self, answer: Option<&Answer>) {
        let now = self.now();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            if let Some(cancelled) = self.requests.deliver(event, now, answer) {
                self.cancel_in_scheduler(cancelled);
            }
        }
        self.events = events;
    }

    /// Whether the engine is to stop; a drain that is out of time ends what still runs.
    fn is_done(&mut self) -> bool {
        let out_of_time = self.drain.as_ref().is_some_and(|drain| drain.deadline <= Instant::now());
        if out_of_time {
            self.end_all();
        }
        self.abandoned || (self.drain.is_some() && self.requests.is_empty())
    }

    fn end_all(&mut self) {
        let reason = unavailable(&self.report.state());
        for id in self.requests.fail_all(&EngineError::Unavailable(reason)) {
            self.cancel_in_scheduler(id);
        }
    }

    /// While no group serves, the scheduler is not asked for plans and so ends nobody in time.
    fn expire_waiting(&mut self) {
        for id in self.requests.expired(self.now()) {
            self.requests.fail(id, EngineError::Deadline);
            self.cancel_in_scheduler(id);
        }
    }

    fn cancel_in_scheduler(&mut self, id: RequestId) {
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.cancel(id);
        }
    }

    fn check_step_deadline(&self, shards: &Shards) -> Result<(), GroupError> {
        let step_timeout = self.config.step_timeout;
        let passed = shards.deadline(step_timeout).is_some_and(|deadline| deadline <= Instant::now());
        if passed { Err(shards.hung(step_timeout)) } else { Ok(()) }
    }

    /// Sets the timer only if it would fire too late: a step's deadline moves on with every answer, and waking once
    /// for nothing is cheaper than moving a timer every step.
    fn arm(&self, timer: Pin<&mut Sleep>, shards: &Shards) {
        let deadline = self.scheduler.as_ref().and_then(Scheduler::next_deadline).map(|at| self.instant(at));
        let drain = self.drain.as_ref().map(|drain| drain.deadline);
        let due = [shards.deadline(self.config.step_timeout), deadline, drain].into_iter().flatten().min();
        let due = due.unwrap_or_else(|| Instant::now() + IDLE);
        if timer.is_elapsed() || due < timer.deadline() {
            timer.reset(due);
        }
    }

    /// Shows the counts to handles and metrics.
    fn publish(&mut self) {
        let Some(scheduler) = &self.scheduler else { return };
        let stats = scheduler.stats();
        self.requests.meters_mut().stats(&stats, scheduler.limits().block_size);
        self.report.set_stats(stats);
    }

    fn now(&self) -> Time {
        Time(self.epoch.elapsed().as_micros() as u64)
    }

    fn instant(&self, at: Time) -> Instant {
        // Rounded up: a timer that fires a microsecond early would find nothing due.
        self.epoch + Duration::from_micros(at.0.min(u64::from(u32::MAX) * 1_000_000) + 1)
    }
}
