//! The whole public surface of the crate. The work is done next door: `planner` makes plans, `results` takes their
//! results, `preemption` finds blocks when there are none, `recovery` undoes steps that failed, `resumption` takes
//! everybody over to a new worker group, and `quarantine` finds out who killed the last one.

use std::collections::{BTreeSet, VecDeque};

use crate::block_manager::BlockManager;
use crate::in_flight::{PlanClock, SentPlan};
use crate::limits::Limits;
use crate::planner::Planner;
use crate::quarantine::Company;
use crate::queue::Queue;
use crate::request::{FinishReason, NewRequest, RequestId, SubmitError, Time};
use crate::sequence::{Sequence, Standing};
use crate::sequence_table::{SequenceKey, SequenceTable};
use crate::slots::Slots;
use crate::step::{Event, ResultError, StepPlan, StepResult};
use crate::step_cost::StepCost;
use crate::token_budget::TokenBudget;

/// Queue, blocks, prefix tree and what is in flight.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) limits: Limits,
    pub(crate) sequences: SequenceTable,
    pub(crate) queue: Queue,
    pub(crate) deadlines: BTreeSet<(Time, SequenceKey)>,
    pub(crate) slots: Slots,
    pub(crate) blocks: BlockManager,
    pub(crate) clock: PlanClock,
    /// Oldest first; as many as `clock` says.
    pub(crate) in_flight: VecDeque<SentPlan>,
    pub(crate) budget: TokenBudget,
    pub(crate) step_cost: StepCost,
    /// When the last result came.
    pub(crate) answered_at: Time,
    /// Plans from this one on were made in the knowledge of the last failed step.
    pub(crate) failure_known_from: u64,
    /// Where the turn stands when a reduced budget cannot serve all decodes at once.
    pub(crate) decode_turn: u32,
    /// Sequences under suspicion of having killed a group.
    pub(crate) num_suspects: u32,
    /// The last plan was the trial of one that has a strike.
    pub(crate) was_tried_alone: bool,
    pub(crate) num_arrivals: u64,
    pub(crate) totals: Totals,
}

/// Counts that only grow.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) preemptions: u64,
    pub(crate) rollbacks: u64,
    pub(crate) resumptions: u64,
    /// In incarnations that are over.
    pub(crate) evictions: u64,
    pub(crate) prefix_queried_tokens: u64,
    pub(crate) prefix_hit_tokens: u64,
}

/// A picture of the scheduler for metrics and tests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Requests that wait for a slot, preempted ones included.
    pub queued: u32,
    /// Prompt tokens that wait.
    pub queued_tokens: u64,
    /// Sequences that hold a slot.
    pub running: u32,
    /// Blocks referenced by sequences.
    pub blocks_held: u32,
    /// Blocks that only the prefix tree holds.
    pub blocks_cached: u32,
    /// Blocks on the free list.
    pub blocks_free: u32,
    /// Blocks released and not yet past the fence.
    pub blocks_fenced: u32,
    /// Plans sent and not answered.
    pub plans_in_flight: u32,
    /// Preemptions since the start.
    pub preemptions: u64,
    /// Sequences sent again because a step they depended on had failed, since the start.
    pub rollbacks: u64,
    /// Sequences that were with a worker group when it died and went on with the next, since the start.
    pub resumptions: u64,
    /// Sequences suspected of having killed a group and not yet cleared.
    pub suspects: u32,
    /// Cached blocks given to another prefix, since the start.
    pub evictions: u64,
    /// Prompt tokens looked up in the prefix tree since the start (each request once).
    pub prefix_queried_tokens: u64,
    /// Of those, found.
    pub prefix_hit_tokens: u64,
}

impl Scheduler {
    /// An empty scheduler over an empty pool.
    ///
    /// # Panics
    /// When the limits cannot work: every sequence must get a token into every plan, and a block must be left to give.
    pub fn new(limits: Limits) -> Self {
        limits.check();
        Self {
            sequences: SequenceTable::default(),
            queue: Queue::default(),
            deadlines: BTreeSet::new(),
            slots: Slots::new(limits.max_sequences),
            blocks: BlockManager::new(&limits),
            clock: PlanClock::default(),
            in_flight: VecDeque::new(),
            budget: TokenBudget::new(limits.max_plan_tokens),
            step_cost: StepCost::default(),
            answered_at: Time(0),
            failure_known_from: 0,
            decode_turn: 0,
            num_suspects: 0,
            was_tried_alone: false,
            num_arrivals: 0,
            totals: Totals::default(),
            limits,
        }
    }

    /// The bounds it works within.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Puts a request into the line.
    ///
    /// # Panics
    /// When the id names a request that has not ended.
    pub fn submit(&mut self, request: NewRequest, now: Time) -> Result<(), SubmitError> {
        check_request(&request, &self.limits)?;
        self.queue.check_room(request.num_prompt_tokens, &self.limits, now)?;
        self.enlist(Sequence::new(request, self.num_arrivals));
        Ok(())
    }

    /// Puts a sequence at the end of the line.
    pub(crate) fn enlist(&mut self, sequence: Sequence) {
        let (deadline, num_prompt_tokens) = (sequence.request.deadline, sequence.request.num_prompt_tokens);
        self.num_arrivals += 1;
        let rank = sequence.rank;
        let key = self.sequences.insert(sequence);
        self.queue.insert(rank, key, num_prompt_tokens);
        self.deadlines.extend(deadline.map(|time| (time, key)));
    }

    /// Ends a request in whatever state it is; no further events come of it. Unknown ids are ignored.
    pub fn cancel(&mut self, id: RequestId) {
        if let Some(key) = self.sequences.find(id) {
            self.remove(key);
        }
    }

    /// The next step, or `None` when there is nothing to compute or `run_ahead + 1` plans are in flight (one, for a
    /// while after the group has died).
    /// A returned plan counts as sent. Events (deadlines, starts) are pushed to `events`.
    ///
    /// Call it again after `submit` and after `apply`. Slots given back wait for the next plan that has a row; blocks
    /// do not: they are free when the plans in flight have been answered.
    pub fn next_plan(&mut self, now: Time, events: &mut Vec<Event>) -> Option<StepPlan> {
        self.expire(now, events);
        if self.clock.num_in_flight() > u64::from(self.run_ahead()) {
            return None;
        }
        if self.num_suspects > 0 {
            return self.plan_trial(now, events);
        }
        Planner::new(self, Company::default(), now, events).plan_step()
    }

    /// Takes the result of the oldest plan in flight and pushes what requests learn from it.
    /// An error is the worker's bug (a step out of order, a row never planned): nothing has changed, and the caller
    /// must tear the group down.
    pub fn apply(&mut self, result: &StepResult, now: Time, events: &mut Vec<Event>) -> Result<(), ResultError> {
        self.take_result(result, now, events)?;
        self.expire(now, events);
        // Not where blocks are released: a plan in the making may just have found them.
        self.blocks.trim_cache(self.clock);
        Ok(())
    }

    /// How many of these tokens a request of this salt would find computed, if it were planned now. A look, nothing
    /// more: no reference is taken, and what is found may be evicted before the request comes.
    pub fn prefix_match_len(&self, token_ids: &[u32], cache_salt: u64) -> u32 {
        if token_ids.is_empty() {
            return 0;
        }
        self.blocks.find_prefix(cache_salt, token_ids, self.clock.sent).blocks.len() as u32 * self.limits.block_size
    }

    /// When the earliest deadline passes, for the caller's timer.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|&(time, _)| time)
    }

    /// Counts now.
    pub fn stats(&self) -> Stats {
        Stats {
            queued: self.queue.len(),
            queued_tokens: self.queue.num_prompt_tokens(),
            running: self.slots.num_tenants(),
            blocks_held: self.blocks.num_held(),
            blocks_cached: self.blocks.num_cached(),
            blocks_free: self.blocks.num_free(),
            blocks_fenced: self.blocks.num_fenced(),
            plans_in_flight: self.in_flight.len() as u32,
            preemptions: self.totals.preemptions,
            rollbacks: self.totals.rollbacks,
            resumptions: self.totals.resumptions,
            suspects: self.num_suspects,
            evictions: self.totals.evictions + self.blocks.num_evictions(),
            prefix_queried_tokens: self.totals.prefix_queried_tokens,
            prefix_hit_tokens: self.totals.prefix_hit_tokens,
        }
    }

    /// Ends every request whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Time, events: &mut Vec<Event>) {
        while let Some(&(time, key)) = self.deadlines.first()
            && time <= now
        {
            self.finish(key, FinishReason::Deadline, events);
        }
    }

    /// Ends a request and tells it why.
    pub(crate) fn finish(&mut self, key: SequenceKey, reason: FinishReason, events: &mut Vec<Event>) {
        let id = self.sequences[key].request.id;
        self.remove(key);
        events.push(Event::Finished { id, reason });
    }

    /// Forgets a request, wherever it is. Results still in flight for it find another tenancy, or none.
    fn remove(&mut self, key: SequenceKey) {
        let Some(sequence) = self.sequences.remove(key) else { return };
        self.num_suspects -= u32::from(sequence.suspicion.is_some());
        match sequence.standing {
            Standing::Waiting | Standing::Preempted(_) => self.queue.remove(sequence.rank),
            Standing::Running(tenancy) => {
                self.slots.vacate(tenancy);
                self.blocks.release(&sequence.blocks, self.clock);
            }
        }
        if let Some(time) = sequence.request.deadline {
            self.deadlines.remove(&(time, key));
        }
    }
}

/// Refuses what can never run under these limits.
pub(crate) fn check_request(request: &NewRequest, limits: &Limits) -> Result<(), SubmitError> {
    let num_known = request.token_ids.len() as u64;
    let num_prompt = u64::from(request.num_prompt_tokens);
    let max_tokens = num_prompt + u64::from(request.max_new_tokens);
    if num_prompt == 0 || num_prompt > num_known || num_known >= max_tokens {
        return Err(SubmitError::Empty);
    }
    if max_tokens > u64::from(limits.max_total_tokens) {
        return Err(SubmitError::TooLong { tokens: max_tokens, limit: limits.max_total_tokens });
    }
    let needed_blocks = (max_tokens + u64::from(limits.run_ahead)).div_ceil(u64::from(limits.block_size));
    let available_blocks = limits.num_blocks - 1;
    if needed_blocks > u64::from(available_blocks) {
        return Err(SubmitError::NeverFits { needed_blocks, available_blocks });
    }
    debug_assert!(request.stop_token_ids.is_sorted(), "stop_token_ids must be sorted");
    Ok(())
}
