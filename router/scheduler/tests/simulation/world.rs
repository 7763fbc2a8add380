//! The simulation itself: one scheduler, one worker, the requests, and the checks between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use forebay_scheduler::{
    Event, FinishReason, RequestId, RowFlags, SampledRow, Scheduler, SequenceRef, Stats, StepPlan, StepResult,
    SubmitError, Time,
};

use super::Outcome;
use super::coverage::{Coverage, sometimes};
use super::mirror::Mirror;
use super::record::{Fate, Record};
use super::rng::Rng;
use super::swarm::Swarm;
use super::worker::Worker;

/// A plan that the worker has and has not answered, with the request of each row.
pub(super) struct SentStep {
    pub(super) plan: StepPlan,
    pub(super) ids: Vec<RequestId>,
}

pub(crate) struct World {
    pub(super) seed: u64,
    pub(super) rng: Rng,
    pub(super) swarm: Swarm,
    pub(super) scheduler: Scheduler,
    pub(super) mirror: Mirror,
    pub(super) worker: Worker,
    /// By request id.
    pub(super) records: Vec<Record>,
    pub(super) live: BTreeSet<RequestId>,
    /// Who may have killed a group, with the deaths under it alone.
    pub(super) suspects: BTreeMap<RequestId, u32>,
    pub(super) in_flight: VecDeque<SentStep>,
    pub(super) num_answered: u64,
    /// Answers since a step failed.
    pub(super) num_good_steps: u64,
    /// What the dead group would have answered next; it must never count.
    pub(super) late: Option<StepResult>,
    /// Plans before this one fail because one before them has.
    pub(super) void_until: u64,
    pub(super) now: Time,
    pub(super) events: Vec<Event>,
    /// Counts when the last plan was sent.
    pub(super) last_stats: Stats,
    /// Answers since anything moved for anybody, and since the best request was served.
    pub(super) num_idle_answers: u32,
    pub(super) best: (Option<RequestId>, u32),
    pub(super) is_draining: bool,
    pub(super) coverage: Coverage,
    pub(super) log_hash: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} failed at step {} of the run: {:?}", self.seed, self.coverage.num_steps, self.swarm);
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let swarm = Swarm::draw(&mut rng);
        Self {
            seed,
            rng,
            scheduler: Scheduler::new(swarm.limits.clone()),
            mirror: Mirror::new(&swarm.limits),
            worker: Worker::new(&swarm.limits, swarm.vocab_size, swarm.acceptance),
            swarm,
            records: Vec::new(),
            live: BTreeSet::new(),
            suspects: BTreeMap::new(),
            in_flight: VecDeque::new(),
            num_answered: 0,
            num_good_steps: u64::MAX / 2,
            late: None,
            void_until: 0,
            now: Time(0),
            events: Vec::new(),
            last_stats: Stats::default(),
            num_idle_answers: 0,
            best: (None, 0),
            is_draining: false,
            coverage: Coverage::default(),
            log_hash: seed,
        }
    }

    pub(crate) fn into_outcome(mut self, drained_in: u64) -> Outcome {
        Outcome { coverage: std::mem::take(&mut self.coverage), log_hash: self.log_hash, drained_in }
    }

    pub(crate) fn run(&mut self, num_steps: u64) {
        // Where hardly any request fits the pool, steps are rare: such a seed ends without having made them all.
        for _ in 0..num_steps * 8 {
            if self.coverage.num_steps >= num_steps {
                break;
            }
            self.now.0 += self.rng.within(0, 3);
            if self.rng.permille(self.swarm.arrivals) {
                for _ in 0..self.rng.within(1, self.swarm.max_burst) {
                    self.submit();
                }
            }
            if self.rng.permille(self.swarm.cancels) {
                self.cancel_one();
            }
            if self.rng.permille(self.swarm.cancel_storms) {
                self.cancel_many();
            }
            if self.rng.permille(self.swarm.group_losses) {
                self.kill_group();
            }
            self.exchange();
        }
    }

    fn submit(&mut self) {
        let id = self.records.len() as u64;
        let request = self.swarm.request(&mut self.rng, id, self.now);
        let (limits, before) = (self.swarm.limits.clone(), self.scheduler.stats());
        let num_tokens = request.num_prompt_tokens + request.max_new_tokens;
        let num_blocks = (num_tokens + limits.run_ahead).div_ceil(limits.block_size);
        let queued_tokens = before.queued_tokens + u64::from(request.num_prompt_tokens);
        let outcome = self.scheduler.submit(request.clone(), self.now);
        let is_expected = match &outcome {
            Err(SubmitError::TooLong { .. }) => num_tokens > limits.max_total_tokens,
            Err(SubmitError::NeverFits { .. }) => num_blocks >= limits.num_blocks,
            Err(SubmitError::QueueFull { .. }) => before.queued >= limits.max_queued,
            Err(SubmitError::QueueTokensFull { .. }) => queued_tokens > limits.max_queued_tokens && before.queued > 0,
            Err(SubmitError::Empty) => false,
            Ok(()) => num_tokens <= limits.max_total_tokens && num_blocks < limits.num_blocks,
        };
        assert!(is_expected, "{outcome:?} for {request:?}");
        sometimes!(self.coverage, matches!(outcome, Err(SubmitError::TooLong { .. })), TooLong);
        sometimes!(self.coverage, matches!(outcome, Err(SubmitError::NeverFits { .. })), NeverFits);
        sometimes!(self.coverage, matches!(outcome, Err(SubmitError::QueueFull { .. })), QueueFull);
        sometimes!(self.coverage, matches!(outcome, Err(SubmitError::QueueTokensFull { .. })), QueueTokensFull);
        if outcome.is_ok() {
            assert!(before.queued < limits.max_queued);
            assert!(before.queued == 0 || queued_tokens <= limits.max_queued_tokens);
            sometimes!(self.coverage, request.token_ids.len() > request.num_prompt_tokens as usize, TakenUpAgain);
            self.coverage.num_requests += 1;
            let poison = self.swarm.poison(&mut self.rng, &request);
            self.records.push(Record::new(request, poison));
            self.live.insert(RequestId(id));
        }
    }

    fn cancel_one(&mut self) {
        let num = self.live.len();
        if num > 0 {
            let index = self.rng.below(num);
            let id = *self.live.iter().nth(index).expect("below their number");
            self.cancel(id);
        }
    }

    fn cancel_many(&mut self) {
        for id in self.live.clone() {
            if self.rng.permille(700) {
                self.cancel(id);
            }
        }
    }

    fn cancel(&mut self, id: RequestId) {
        let (is_seated, is_prefilling, is_in_flight) = self.phase_of(id);
        let record = &self.records[id.0 as usize];
        sometimes!(self.coverage, record.fate == Fate::InLine, CancelledInLine);
        sometimes!(self.coverage, is_seated && is_prefilling, CancelledInPrefill);
        sometimes!(self.coverage, is_seated && is_in_flight, CancelledInFlight);
        sometimes!(self.coverage, record.is_unseated, CancelledAfterPreemption);
        self.scheduler.cancel(id);
        if self.rng.permille(100) {
            self.scheduler.cancel(id);
        }
        self.end(id, Fate::Cancelled);
        self.num_idle_answers = 0;
        self.check();
    }

    /// Some plans down, some results up.
    pub(super) fn exchange(&mut self) {
        let mut is_waiting = false;
        for _ in 0..self.rng.within(1, u64::from(self.swarm.limits.run_ahead) + 1) {
            is_waiting = !self.plan();
            if is_waiting {
                break;
            }
        }
        let is_delayed = !is_waiting && self.rng.permille(self.swarm.delays);
        if !self.in_flight.is_empty() && !is_delayed {
            self.answer();
        }
    }

    /// Asks for a plan and says whether there was one.
    fn plan(&mut self) -> bool {
        let is_full = self.in_flight.len() as u32 > self.swarm.limits.run_ahead;
        let plan = self.scheduler.next_plan(self.now, &mut self.events);
        assert!(plan.is_none() || !is_full, "more than run_ahead + 1 plans are in flight");
        self.take_events(None);
        if let Some(plan) = plan {
            self.log_plan(&plan);
            self.send(plan);
            self.check();
            return true;
        }
        let is_stuck = self.in_flight.is_empty() && !self.live.is_empty();
        assert!(!is_stuck, "requests wait, nothing is in flight, and no plan comes");
        self.check();
        false
    }

    fn send(&mut self, plan: StepPlan) {
        self.cover_releases(&plan);
        for new in &plan.new_sequences {
            let record = &mut self.records[new.id.0 as usize];
            assert_eq!(record.fate, Fate::Started, "{:?} is sent but has not started or is over", new.id);
            assert_eq!(new.token_ids, record.tokens, "all known tokens must be sent");
            assert_eq!(new.num_prompt_tokens, record.request.num_prompt_tokens);
            assert!(record.request.reuse_prefix || new.num_computed_tokens == 0, "a prefix was read against orders");
            sometimes!(self.coverage, record.is_unseated && new.num_computed_tokens > 0, ResumedWithHit);
            sometimes!(self.coverage, record.is_unseated && new.num_computed_tokens == 0, ResumedWithoutHit);
            record.is_unseated = false;
        }
        let released: Vec<RequestId> = plan.released.iter().map(|&gone| self.seated(gone)).collect();
        self.mirror.apply(&plan, self.num_answered, &mut self.coverage);
        let ids: Vec<RequestId> = plan.rows.iter().map(|row| self.seated(row.sequence)).collect();
        for (row, &id) in plan.rows.iter().zip(&ids) {
            assert_eq!(self.record(id).fate, Fate::Started, "a row for {id:?}, which is over");
            let own = RowFlags::SAMPLES | RowFlags::LAST_CHUNK;
            assert_eq!(row.flags.0 & !own, self.record(id).request.row_flags.0 & !own, "the request's flags");
        }
        self.check_company(&plan, &ids);
        self.check_order(&plan, &ids, &released);
        self.check_chunks(&plan);
        self.cover_plan(&plan);
        if self.best.0.is_some_and(|best| ids.contains(&best)) {
            self.best.1 = 0;
        }
        self.coverage.num_steps += 1;
        self.coverage.num_rows += plan.rows.len() as u64;
        self.last_stats = self.scheduler.stats();
        self.in_flight.push_back(SentStep { plan, ids });
    }

    fn seated(&self, sequence: SequenceRef) -> RequestId {
        self.mirror.seats[sequence.slot as usize].as_ref().expect("checked by the mirror").id
    }

    /// Checks what requests learn; `step` and its result where events come from one.
    pub(super) fn take_events(&mut self, answered: Option<(&SentStep, &StepResult)>) {
        for event in std::mem::take(&mut self.events) {
            self.log_event(&event);
            self.num_idle_answers = 0;
            match event {
                Event::Started { id, .. } => {
                    assert_eq!(self.record(id).fate, Fate::InLine, "{id:?} starts twice or after its end");
                    self.records[id.0 as usize].fate = Fate::Started;
                }
                Event::Token { id, token_id, num_generated, result_index } => {
                    let (step, result) = answered.expect("tokens come with results");
                    let of_row = |row: &SampledRow| vec![row.sequence; row.token_ids.len()];
                    let sequence = result.sampled.iter().flat_map(of_row).nth(result_index);
                    let token = result.sampled.iter().flat_map(|row| &row.token_ids).nth(result_index);
                    assert_eq!(token, Some(&token_id), "the result's place of the token");
                    let row = step.plan.rows.iter().position(|row| Some(row.sequence) == sequence);
                    assert_eq!(row.map(|row| step.ids[row]), Some(id), "the token of somebody else");
                    self.clear(id, step);
                    self.deliver(id, token_id, num_generated);
                }
                Event::Finished { id, reason } => self.finish(id, reason, answered),
            }
        }
        assert!(self.live.iter().all(|&id| self.record(id).due.is_none()), "an end is overdue");
    }

    fn deliver(&mut self, id: RequestId, token_id: u32, num_generated: u32) {
        let record = &mut self.records[id.0 as usize];
        record.deliver(token_id, num_generated, self.swarm.vocab_size);
        let is_stop = record.request.stop_token_ids.contains(&token_id);
        sometimes!(self.coverage, is_stop && num_generated <= record.request.min_new_tokens, StopHeldOffByMinimum);
        let is_last = num_generated == record.request.max_new_tokens;
        let has_stopped = matches!(record.due, Some(FinishReason::StopToken(_)));
        sometimes!(self.coverage, is_last && has_stopped, StopAtLastToken);
        sometimes!(self.coverage, record.is_unseated && record.due.is_some(), FinishedAfterPreemption);
    }

    fn finish(&mut self, id: RequestId, reason: FinishReason, answered: Option<(&SentStep, &StepResult)>) {
        let record = &self.records[id.0 as usize];
        assert!(record.is_live(), "{id:?} ends twice");
        match &reason {
            FinishReason::StopToken(_) | FinishReason::Length => assert_eq!(record.due.as_ref(), Some(&reason)),
            FinishReason::Deadline => {
                assert!(record.request.deadline.is_some_and(|deadline| deadline <= self.now), "ended before its time");
                sometimes!(self.coverage, record.fate == Fate::InLine, DeadlineInLine);
                sometimes!(self.coverage, self.phase_of(id).0, DeadlineInSlot);
            }
            FinishReason::Failed { kind: 0, .. } => {
                assert!(record.num_small_failures >= 3, "given up too early");
                self.coverage.hit(super::coverage::Rare::StepFailedForGood);
            }
            FinishReason::Failed { .. } => {
                let (step, result) = answered.expect("failures come with results");
                let mut rows = step.plan.rows.iter().zip(&step.ids);
                let failed = |row: SequenceRef| result.errors.iter().any(|error| error.sequence == row);
                assert!(rows.any(|(row, &owner)| owner == id && failed(row.sequence)), "it has not failed");
            }
            FinishReason::Quarantined { num_deaths } => self.check_quarantine(id, *num_deaths),
            FinishReason::NoLongerFits(_) => self.check_misfit(id),
        }
        self.end(id, Fate::Finished(reason));
    }

    fn end(&mut self, id: RequestId, fate: Fate) {
        let record = &mut self.records[id.0 as usize];
        (record.fate, record.due) = (fate, None);
        assert!(self.live.remove(&id));
        self.suspects.remove(&id);
    }

    /// The scheduler's own recount, and its figures against ours.
    pub(super) fn check(&self) {
        self.scheduler.check_invariants();
        let stats = self.scheduler.stats();
        assert_eq!(stats.queued + stats.running, self.live.len() as u32, "queued and running are not the live ones");
        assert_eq!(stats.plans_in_flight as usize, self.in_flight.len());
        assert!(stats.running <= self.swarm.limits.max_sequences);
        let num_blocks = stats.blocks_free + stats.blocks_cached + stats.blocks_fenced + stats.blocks_held;
        assert_eq!(num_blocks, self.swarm.limits.num_blocks - 1);
        let deadline = self.live.iter().filter_map(|&id| self.record(id).request.deadline).min();
        assert_eq!(self.scheduler.next_deadline(), deadline);
        assert_eq!(stats.suspects as usize, self.suspects.len());
    }

    /// Nobody may be forgotten: the best request is served soon, and something always happens.
    pub(super) fn check_progress(&mut self) {
        let started = self.live.iter().filter(|&&id| self.record(id).fate == Fate::Started);
        let best = started.min_by_key(|&&id| (self.record(id).request.priority, id)).copied();
        if best.is_none() || best != self.best.0 {
            self.best = (best, 0);
        }
        let limits = &self.swarm.limits;
        // A prompt alone takes at most a plan a token; results take the depth of the pipe to come back.
        let max_idle = limits.max_total_tokens + limits.run_ahead + 2;
        assert!(self.num_idle_answers <= max_idle, "{} results and nobody has learned anything", self.num_idle_answers);
        // Seated, it is served in every plan but those that wait for the fence or for its turn. Unseated, it waits for
        // those that run to end.
        let is_seated = best.is_some_and(|id| self.mirror.seat_of(id).is_some() && !self.record(id).is_unseated);
        let to_run = if is_seated { 0 } else { limits.max_total_tokens * 2 };
        let max_neglect = to_run + limits.max_sequences + 2 * limits.run_ahead + 4;
        assert!(self.best.1 <= max_neglect, "{best:?} has not been served for {} results", self.best.1);
    }

    pub(super) fn record(&self, id: RequestId) -> &Record {
        &self.records[id.0 as usize]
    }
}
