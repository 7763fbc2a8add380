//! A scheduler, a worker that answers what it is told, and short ways to say what happens.

use forebay_scheduler::{
    Event, FinishReason, Limits, NewRequest, NewSequence, RequestId, RowFlags, SampledRow, Scheduler, SequenceError,
    SequenceRef, StepError, StepPlan, StepResult, StepTarget, Time,
};

/// What every sampled row yields unless a story says otherwise.
pub(crate) const TOKEN: u32 = 7;

/// Blocks of 4 tokens, 15 to give, 4 slots, 16 tokens a plan, one plan ahead.
pub(crate) fn limits() -> Limits {
    Limits {
        block_size: 4,
        num_blocks: 16,
        max_cached_blocks: u32::MAX,
        max_sequences: 4,
        max_plan_tokens: 16,
        step_target: StepTarget::Unbounded,
        min_chunk_tokens: 2,
        run_ahead: 1,
        max_draft_tokens: 0,
        max_queued: 8,
        max_queued_tokens: 100,
        max_total_tokens: 60,
    }
}

/// A prompt of `length` tokens that no other first token shares.
pub(crate) fn prompt(first: u32, length: u32) -> Vec<u32> {
    (0..length).map(|position| first * 1_000 + position).collect()
}

pub(crate) fn request(id: u64, token_ids: Vec<u32>, max_new_tokens: u32) -> NewRequest {
    NewRequest {
        id: RequestId(id),
        num_prompt_tokens: token_ids.len() as u32,
        token_ids,
        max_new_tokens,
        min_new_tokens: 0,
        stop_token_ids: Vec::new(),
        priority: 0,
        deadline: None,
        cache_salt: 0,
        row_flags: RowFlags(0),
        reuse_prefix: true,
    }
}

pub(crate) struct Rig {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Time,
    pub(crate) events: Vec<Event>,
}

impl Rig {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { scheduler: Scheduler::new(limits), now: Time(0), events: Vec::new() }
    }

    pub(crate) fn submit(&mut self, request: NewRequest) {
        self.scheduler.submit(request, self.now).unwrap();
    }

    pub(crate) fn plan(&mut self) -> StepPlan {
        self.try_plan().expect("a plan")
    }

    pub(crate) fn try_plan(&mut self) -> Option<StepPlan> {
        let plan = self.scheduler.next_plan(self.now, &mut self.events);
        self.scheduler.check_invariants();
        plan
    }

    /// Every sampled row yields `TOKEN`.
    pub(crate) fn answer(&mut self, plan: &StepPlan) {
        self.answer_with(plan, |_| TOKEN);
    }

    pub(crate) fn answer_with(&mut self, plan: &StepPlan, token_of: impl Fn(SequenceRef) -> u32) {
        let result = result(plan, token_of);
        self.apply(&result);
    }

    /// The sequence fails, all others yield `TOKEN`.
    pub(crate) fn answer_failing(&mut self, plan: &StepPlan, sequence: SequenceRef) {
        let mut result = result(plan, |_| TOKEN);
        result.sampled.retain(|row| row.sequence != sequence);
        result.errors.push(SequenceError { sequence, kind: 2, message: "logits are not numbers".into() });
        self.apply(&result);
    }

    pub(crate) fn fail(&mut self, plan: &StepPlan) {
        let step_error = Some(StepError { kind: 1, message: "out of memory".into() });
        self.apply(&StepResult { step_id: plan.step_id, step_error, ..StepResult::default() });
    }

    pub(crate) fn apply(&mut self, result: &StepResult) {
        self.scheduler.apply(result, self.now, &mut self.events).unwrap();
        self.scheduler.check_invariants();
    }

    /// One plan, answered at once.
    pub(crate) fn step(&mut self) -> StepPlan {
        let plan = self.plan();
        self.answer(&plan);
        plan
    }

    /// Steps until there is nothing to do.
    pub(crate) fn run(&mut self) {
        while let Some(plan) = self.try_plan() {
            self.answer(&plan);
        }
    }

    pub(crate) fn tokens(&self, id: u64) -> Vec<u32> {
        let token = |event: &Event| match event {
            Event::Token { id: owner, token_id, .. } if owner.0 == id => Some(*token_id),
            _ => None,
        };
        self.events.iter().filter_map(token).collect()
    }

    /// How a request ended; a second end is a failure.
    pub(crate) fn end(&self, id: u64) -> Option<FinishReason> {
        let end = |event: &Event| match event {
            Event::Finished { id: owner, reason } if owner.0 == id => Some(reason.clone()),
            _ => None,
        };
        let ends: Vec<FinishReason> = self.events.iter().filter_map(end).collect();
        assert!(ends.len() <= 1, "request {id} ended twice");
        ends.into_iter().next()
    }

    pub(crate) fn blocks_in_use(&self) -> u32 {
        let stats = self.scheduler.stats();
        stats.blocks_held + stats.blocks_fenced
    }
}

pub(crate) fn result(plan: &StepPlan, token_of: impl Fn(SequenceRef) -> u32) -> StepResult {
    let sampling = plan.rows.iter().filter(|row| row.flags.0 & RowFlags::SAMPLES != 0);
    let sampled = sampling.map(|row| SampledRow { sequence: row.sequence, token_ids: vec![token_of(row.sequence)] });
    StepResult { step_id: plan.step_id, sampled: sampled.collect(), ..StepResult::default() }
}

/// Tokens of each row.
pub(crate) fn widths(plan: &StepPlan) -> Vec<u32> {
    plan.rows.iter().map(|row| row.num_tokens).collect()
}

pub(crate) fn new_ids(plan: &StepPlan) -> Vec<u64> {
    plan.new_sequences.iter().map(|new| new.id.0).collect()
}

pub(crate) fn new_of(plan: &StepPlan, id: u64) -> &NewSequence {
    plan.new_sequences.iter().find(|new| new.id.0 == id).expect("a new sequence of that id")
}
