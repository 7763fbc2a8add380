//! What one seed is like: sizes, features and faults are drawn on or off, so that seeds differ in kind and rare
//! combinations are not drowned by the average.

use forebay_scheduler::{Limits, NewRequest, RequestId, RowFlags, StepPlan, StepTarget, Time};

use super::rng::Rng;

/// The drawn character of a seed.
#[derive(Debug)]
pub(crate) struct Swarm {
    pub(crate) limits: Limits,
    pub(crate) vocab_size: u64,
    /// Chance that a draft is right.
    pub(crate) acceptance: u64,
    max_prompt: u64,
    max_new: u64,
    num_salts: u64,
    num_priorities: u64,
    /// Beginnings that prompts share.
    prefixes: Vec<Vec<u32>>,
    shared: u64,
    stops: u64,
    minimums: u64,
    deadlines: u64,
    bypasses: u64,
    resumptions: u64,
    oversized: u64,
    /// Arrivals: chance a tick, and how many at once.
    pub(crate) arrivals: u64,
    pub(crate) max_burst: u64,
    /// Chances a tick.
    pub(crate) cancels: u64,
    pub(crate) cancel_storms: u64,
    pub(crate) group_losses: u64,
    /// Chance a request that it kills whoever computes it.
    pub(crate) poisons: u64,
    /// Chance a loss that the next group offers other limits, and that there is no next one.
    pub(crate) new_limits: u64,
    pub(crate) evacuations: u64,
    /// Chance a step.
    pub(crate) step_errors: u64,
    /// Whether plans behind a failed step fail with it, until the scheduler has answered.
    pub(crate) voids_followers: bool,
    /// Chance a row.
    pub(crate) sequence_errors: u64,
    /// Chance that a result is held back although it is there.
    pub(crate) delays: u64,
    /// What a step takes: whatever it holds, and for each token of it, in percent.
    step_time: (u64, u64),
}

impl Swarm {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let limits = draw_limits(rng);
        let pool_tokens = u64::from((limits.num_blocks - 1) * limits.block_size);
        // From a pool that holds one request to one that holds all slots: both sides of preemption.
        let share = (pool_tokens / rng.within(1, u64::from(limits.max_sequences) * 2)).clamp(2, 48);
        let max_prompt = rng.within(1, share);
        let on = |rng: &mut Rng, high: u64| {
            let value = rng.within(1, high);
            rng.sometimes(500, value)
        };
        let num_prefixes = rng.within(1, 4);
        let vocab_size = rng.within(4, 100);
        Self {
            prefixes: (0..num_prefixes).map(|_| random_tokens(rng, max_prompt, vocab_size)).collect(),
            vocab_size,
            acceptance: rng.within(0, 1_000),
            max_prompt,
            max_new: rng.within(4, 64),
            num_salts: rng.within(1, 3),
            num_priorities: rng.within(1, 3),
            shared: on(rng, 1_000),
            stops: on(rng, 1_000),
            minimums: on(rng, 500),
            deadlines: on(rng, 300),
            bypasses: on(rng, 300),
            resumptions: on(rng, 300),
            oversized: on(rng, 50),
            arrivals: rng.within(200, 900),
            max_burst: rng.within(1, 20),
            cancels: on(rng, 100),
            cancel_storms: on(rng, 5),
            group_losses: on(rng, 5),
            poisons: on(rng, 10),
            new_limits: on(rng, 500),
            evacuations: on(rng, 300),
            step_errors: on(rng, 120),
            voids_followers: rng.permille(500),
            sequence_errors: on(rng, 30),
            delays: on(rng, 900),
            step_time: (rng.within(0, 2), rng.within(0, 30)),
            limits,
        }
    }

    pub(crate) fn request(&self, rng: &mut Rng, id: u64, now: Time) -> NewRequest {
        let mut token_ids = self.prompt(rng);
        let num_prompt_tokens = token_ids.len() as u32;
        let resumed = rng.sometimes(self.resumptions, 4);
        token_ids.extend(random_tokens(rng, resumed, self.vocab_size));
        let num_before = token_ids.len() as u32 - num_prompt_tokens;
        let stretch = 1 + rng.sometimes(self.oversized, 8);
        let max_new_tokens = num_before + (rng.within(1, self.max_new) * stretch) as u32;
        let num_stops = rng.sometimes(self.stops, 3);
        let mut stop_token_ids = random_tokens(rng, num_stops, self.vocab_size);
        stop_token_ids.sort_unstable();
        let patience = rng.within(0, 400);
        NewRequest {
            id: RequestId(id),
            num_prompt_tokens,
            max_new_tokens,
            min_new_tokens: rng.sometimes(self.minimums, 4) as u32,
            stop_token_ids,
            priority: rng.below(self.num_priorities as usize) as i32,
            deadline: rng.permille(self.deadlines).then_some(Time(now.0 + patience)),
            cache_salt: rng.below(self.num_salts as usize) as u64,
            row_flags: RowFlags((rng.next() as u32) & !3),
            reuse_prefix: !rng.permille(self.bypasses),
            token_ids,
        }
    }

    /// How long the worker computes a plan, more or less.
    pub(crate) fn time_of(&self, plan: &StepPlan, rng: &mut Rng) -> u64 {
        let num_tokens: u64 = plan.rows.iter().map(|row| u64::from(row.num_tokens)).sum();
        let (fixed, percent_a_token) = self.step_time;
        let time = fixed + num_tokens * percent_a_token / 100;
        if rng.permille(20) { time * 10 } else { time }
    }

    /// A position of the request that kills, in some.
    pub(crate) fn poison(&self, rng: &mut Rng, request: &NewRequest) -> Option<usize> {
        let num_computed = u64::from(request.num_prompt_tokens + request.max_new_tokens - 1);
        rng.permille(self.poisons).then(|| (rng.next() % num_computed) as usize)
    }

    /// What the next group offers: about as much as the last.
    pub(crate) fn draw_new_limits(&mut self, rng: &mut Rng) {
        let around = |rng: &mut Rng, value: u32| rng.within(u64::from(value / 2), u64::from(value * 3 / 2)) as u32;
        let limits = &mut self.limits;
        limits.block_size = rng.within(1, 8) as u32;
        limits.num_blocks = around(rng, limits.num_blocks).max(2);
        limits.max_sequences = around(rng, limits.max_sequences).max(1);
        limits.max_plan_tokens = around(rng, limits.max_plan_tokens).max(limits.max_sequences);
        limits.run_ahead = rng.below(4) as u32;
        limits.step_target = draw_target(rng);
        limits.min_chunk_tokens = rng.within(1, 6) as u32;
        limits.max_draft_tokens = rng.sometimes(300, 5) as u32;
        limits.max_total_tokens = around(rng, limits.max_total_tokens).max(2);
    }

    fn prompt(&self, rng: &mut Rng) -> Vec<u32> {
        let num_tokens = rng.within(1, self.max_prompt) as usize;
        if !rng.permille(self.shared) {
            return random_tokens(rng, num_tokens as u64, self.vocab_size);
        }
        let mut tokens = self.prefixes[rng.below(self.prefixes.len())].clone();
        if rng.permille(500) {
            tokens.truncate(num_tokens);
            let tail = self.max_prompt - tokens.len() as u64;
            let tail = rng.within(0, tail);
            tokens.extend(random_tokens(rng, tail, self.vocab_size));
        }
        tokens
    }
}

fn draw_limits(rng: &mut Rng) -> Limits {
    let is_tiny = rng.permille(60);
    let num_blocks = if is_tiny { rng.within(2, 12) } else { rng.within(24, 64) };
    let block_size = rng.within(1, 8);
    let max_sequences = if is_tiny { rng.within(1, 4) } else { rng.within(6, 16) };
    let spare_tokens = [0, rng.within(0, 4), rng.within(0, 48)][rng.below(3)];
    let pool_tokens = (num_blocks - 1) * block_size;
    Limits {
        block_size: block_size as u32,
        num_blocks: num_blocks as u32,
        max_cached_blocks: if num_blocks % 8 == 0 { block_size as u32 } else { u32::MAX },
        max_sequences: max_sequences as u32,
        max_plan_tokens: (max_sequences + spare_tokens) as u32,
        step_target: draw_target(rng),
        min_chunk_tokens: rng.within(1, 6) as u32,
        run_ahead: rng.below(4) as u32,
        max_draft_tokens: [0, 0, rng.within(1, 8) as u32][rng.below(3)],
        max_queued: rng.within(1, 40) as u32,
        max_queued_tokens: rng.within(10, 1_500),
        max_total_tokens: rng.within(pool_tokens.div_ceil(2), pool_tokens + 8) as u32,
    }
}

fn draw_target(rng: &mut Rng) -> StepTarget {
    match rng.below(3) {
        0 => StepTarget::Unbounded,
        1 => StepTarget::Micros(rng.within(0, 12)),
        _ => StepTarget::Stretch { percent: rng.within(0, 300) as u32 },
    }
}

fn random_tokens(rng: &mut Rng, num: u64, vocab_size: u64) -> Vec<u32> {
    (0..num).map(|_| (rng.next() % vocab_size) as u32).collect()
}
