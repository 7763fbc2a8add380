//! How much of a prompt is computed beside decodes.

use forebay_scheduler::{Limits, StepPlan, StepTarget};

use super::rig::{Rig, limits, prompt, request, widths};

/// Microseconds of a step, and of a token in it.
const STEP: u64 = 2_000;
const TOKEN: u64 = 100;

fn time_of(plan: &StepPlan) -> u64 {
    STEP + TOKEN * widths(plan).iter().map(|&width| u64::from(width)).sum::<u64>()
}

/// Roomy, with a bound on steps.
fn paced(step_target: StepTarget) -> Limits {
    Limits {
        step_target,
        block_size: 16,
        num_blocks: 1_000,
        max_sequences: 32,
        max_plan_tokens: 512,
        max_queued: 100,
        max_queued_tokens: 100_000,
        max_total_tokens: 5_000,
        ..limits()
    }
}

impl Rig {
    /// One plan, answered when its time has passed.
    fn timed_step(&mut self) -> StepPlan {
        let plan = self.plan();
        self.now.0 += time_of(&plan);
        self.answer(&plan);
        plan
    }

    /// Streams that decode, and steps of every kind behind them.
    fn with_streams(limits: Limits, num_streams: u64) -> Self {
        let mut rig = Self::new(limits);
        for id in 0..num_streams {
            rig.submit(request(id, prompt(id as u32, 16), 4_000));
        }
        for round in 0..4 {
            rig.submit(request(100 + round, prompt(100 + round as u32, 400), 1));
            (0..30).for_each(|_| drop(rig.timed_step()));
            while rig.end(100 + round).is_none() {
                rig.timed_step();
            }
        }
        rig
    }
}

#[test]
fn a_step_with_decodes_takes_as_long_as_the_target() {
    let mut rig = Rig::with_streams(paced(StepTarget::Micros(8_000)), 8);
    rig.submit(request(1_000, prompt(1_000, 1_450), 1));
    let mut chunks: Vec<StepPlan> = (0..100).map(|_| rig.timed_step()).filter(|plan| plan.rows.len() > 8).collect();
    chunks.pop();
    assert!((25..=35).contains(&chunks.len()), "1,450 tokens in chunks of about 52: {}", chunks.len());
    for plan in &chunks {
        assert!((7_600..=8_400).contains(&time_of(plan)), "{:?} takes {}", widths(plan), time_of(plan));
    }
}

#[test]
fn a_step_may_be_stretched_by_so_many_percent_of_its_decodes() {
    let mut rig = Rig::with_streams(paced(StepTarget::Stretch { percent: 150 }), 8);
    rig.submit(request(1_000, prompt(1_000, 1_450), 1));
    let plan = rig.timed_step();
    let decodes_alone = STEP + 8 * TOKEN;
    let stretch = time_of(&plan) * 100 / decodes_alone;
    assert!((235..=265).contains(&stretch), "{:?} takes {stretch} percent", widths(&plan));
}

#[test]
fn the_more_prompts_wait_for_each_decode_the_longer_a_step_may_be() {
    let mut rig = Rig::with_streams(paced(StepTarget::Stretch { percent: 150 }), 2);
    for id in 1_000..1_006 {
        rig.submit(request(id, prompt(id as u32, 1_450), 1));
    }
    // Not at once: no chunk is more than twice as large as those that were seen.
    (0..3).for_each(|_| drop(rig.timed_step()));
    let plan = rig.timed_step();
    let decodes_alone = STEP + 2 * TOKEN;
    let stretch = time_of(&plan) * 100 / decodes_alone;
    assert!((530..=570).contains(&stretch), "three prompts for each: {:?} takes {stretch} percent", widths(&plan));
}

#[test]
fn decodes_that_take_longer_than_the_target_starve_no_prompt() {
    let mut rig = Rig::with_streams(paced(StepTarget::Micros(1)), 8);
    rig.submit(request(1_000, prompt(1_000, 9), 1));
    let chunks: Vec<u32> = (0..5).map(|_| widths(&rig.timed_step())[8]).collect();
    assert_eq!(chunks, [2, 2, 2, 2, 1]);
}

#[test]
fn without_decodes_a_prompt_gets_the_whole_plan() {
    let mut rig = Rig::with_streams(paced(StepTarget::Micros(1)), 8);
    (0..8).for_each(|id| rig.scheduler.cancel(forebay_scheduler::RequestId(id)));
    rig.submit(request(1_000, prompt(1_000, 1_450), 1));
    assert_eq!(widths(&rig.timed_step()), [512]);
}

#[test]
fn before_any_step_was_timed_chunks_beside_decodes_are_small() {
    let mut rig = Rig::new(paced(StepTarget::Micros(1_000_000)));
    rig.submit(request(1, prompt(1, 4), 9));
    rig.submit(request(2, prompt(2, 1_450), 9));
    let (first, second) = (rig.plan(), rig.plan());
    assert_eq!((widths(&first), widths(&second)), (vec![4, 508], vec![1, 64]));
}
