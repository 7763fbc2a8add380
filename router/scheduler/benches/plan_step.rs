//! Microseconds a step of the scheduler (`next_plan` and `apply`) at 1, 64 and 512 sequences, decoding and admitting.
//! `cargo bench -p forebay-scheduler`
#![allow(clippy::print_stdout, clippy::disallowed_macros, clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, Instant};

use forebay_scheduler::{
    Event, Limits, NewRequest, RequestId, RowFlags, SampledRow, Scheduler, StepPlan, StepResult, StepTarget, Time,
};

const NUM_STEPS: u32 = 2_000;
const PROMPT: u32 = 256;

fn main() {
    for num_sequences in [1, 64, 512] {
        let mut bench = Bench::new(num_sequences);
        let admission = bench.admit_all(num_sequences);
        let (plan, apply) = bench.decode(NUM_STEPS);
        println!(
            "{num_sequences:>4} sequences: plan {:>7.2} µs, apply {:>7.2} µs a decode step; {:>6.2} µs to admit a prompt of {PROMPT}",
            micros(plan) / f64::from(NUM_STEPS),
            micros(apply) / f64::from(NUM_STEPS),
            micros(admission) / f64::from(num_sequences),
        );
    }
}

struct Bench {
    scheduler: Scheduler,
    events: Vec<Event>,
    result: StepResult,
}

impl Bench {
    fn new(num_sequences: u32) -> Self {
        let limits = Limits {
            block_size: 16,
            num_blocks: num_sequences * 160 + 2,
            max_sequences: num_sequences,
            max_plan_tokens: 2_048.max(num_sequences),
            step_target: StepTarget::Unbounded,
            min_chunk_tokens: 2,
            run_ahead: 1,
            max_draft_tokens: 0,
            max_queued: num_sequences,
            max_cached_blocks: u32::MAX,
            max_queued_tokens: u64::MAX,
            max_total_tokens: 8_192,
        };
        Self { scheduler: Scheduler::new(limits), events: Vec::new(), result: StepResult::default() }
    }

    fn admit_all(&mut self, num_sequences: u32) -> Duration {
        for id in 0..u64::from(num_sequences) {
            let token_ids = (0..PROMPT).map(|position| position * 7 + id as u32).collect();
            self.scheduler.submit(request(id, token_ids), Time(0)).unwrap_or_else(|error| unreachable!("{error}"));
        }
        let start = Instant::now();
        while self.scheduler.stats().queued > 0 {
            self.step();
        }
        start.elapsed()
    }

    /// Time in `next_plan` and time in `apply`.
    fn decode(&mut self, num_steps: u32) -> (Duration, Duration) {
        self.step();
        (0..num_steps)
            .map(|_| self.step())
            .fold((Duration::ZERO, Duration::ZERO), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    fn step(&mut self) -> (Duration, Duration) {
        let start = Instant::now();
        let plan = self.scheduler.next_plan(Time(0), &mut self.events);
        let planned = start.elapsed();
        answer(&plan.unwrap_or_default(), &mut self.result);
        self.events.clear();
        let start = Instant::now();
        self.scheduler.apply(&self.result, Time(0), &mut self.events).unwrap_or_else(|error| unreachable!("{error}"));
        (planned, start.elapsed())
    }
}

fn request(id: u64, token_ids: Vec<u32>) -> NewRequest {
    NewRequest {
        id: RequestId(id),
        num_prompt_tokens: token_ids.len() as u32,
        token_ids,
        max_new_tokens: NUM_STEPS + 200,
        min_new_tokens: 0,
        stop_token_ids: vec![0, 2],
        priority: 0,
        deadline: None,
        cache_salt: 0,
        row_flags: RowFlags(0),
        reuse_prefix: true,
    }
}

fn answer(plan: &StepPlan, result: &mut StepResult) {
    result.step_id = plan.step_id;
    result.sampled.clear();
    let sampling = plan.rows.iter().filter(|row| row.flags.0 & RowFlags::SAMPLES != 0);
    result.sampled.extend(sampling.map(|row| SampledRow { sequence: row.sequence, token_ids: vec![5] }));
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
