use super::*;

/// A machine: microseconds of a step, a prompt token, a decode and a thousand reads.
struct Machine {
    fixed: u64,
    prompt: u64,
    decode: u64,
    reads: u64,
}

const MACHINE: Machine = Machine { fixed: 4_000, prompt: 500, decode: 700, reads: 250 };

impl Machine {
    fn micros(&self, load: &StepLoad) -> u64 {
        let reads = (load.prompt_reads + load.decode_reads) * self.reads / 1_000;
        self.fixed + load.prompt_tokens * self.prompt + load.decode_tokens * self.decode + reads
    }
}

fn decodes(num: u32, context: u32) -> StepLoad {
    let mut load = StepLoad::default();
    (0..num).for_each(|_| load.add_decode(1, context));
    load
}

fn beside(mut load: StepLoad, num_tokens: u32, context: u32) -> StepLoad {
    load.add_chunk(num_tokens, context);
    load
}

/// A few seconds of a server: prompts alone, decodes alone, and chunks of a prompt beside decodes.
fn learn(cost: &mut StepCost, machine: &Machine) {
    for step in 0..400_u32 {
        let load = match step % 20 {
            0 => beside(StepLoad::default(), 40 + step % 400, 0),
            1..=9 => decodes(1 + step / 20 % 8, 100 + step),
            part => beside(decodes(8, 100 + step), 20 + step % 50, 90 * (part - 10)),
        };
        cost.observe(&load, machine.micros(&load));
    }
}

fn assert_near(expected: f64, got: f64) {
    assert_within(0.1, expected, got);
}

fn assert_within(share: f64, expected: f64, got: f64) {
    assert!((got / expected - 1.0).abs() < share, "expected about {expected}, got {got}");
}

#[test]
fn what_steps_cost_is_learned_from_the_steps() {
    let mut cost = StepCost::default();
    assert!(!cost.is_known());
    learn(&mut cost, &MACHINE);
    assert!(cost.is_known());
    for load in [decodes(8, 400), beside(decodes(8, 400), 40, 300), beside(decodes(4, 200), 64, 0)] {
        assert_near(MACHINE.micros(&load) as f64, cost.predict(&load));
    }
}

#[test]
fn a_chunk_is_as_large_as_its_time_allows() {
    let mut cost = StepCost::default();
    learn(&mut cost, &MACHINE);
    for context in [0, 500, 900] {
        let num_tokens = cost.tokens_within(20_000.0, context);
        assert_near(20_000.0, cost.of_chunk(num_tokens, context) + cost.of_chunk(1, context + num_tokens) / 2.0);
    }
    assert!(cost.tokens_within(20_000.0, 0) > cost.tokens_within(20_000.0, 900));
    assert_eq!((cost.tokens_within(0.0, 0), cost.tokens_within(-5.0, 0)), (0, 0));
}

#[test]
fn nothing_is_known_before_both_kinds_of_rows_were_seen() {
    let mut cost = StepCost::default();
    cost.observe(&decodes(2, 10), 5_000);
    assert!(!cost.is_known());
    cost.observe(&beside(StepLoad::default(), 100, 0), 60_000);
    assert!(cost.is_known());
}

#[test]
fn a_step_that_took_a_hundred_times_too_long_changes_little() {
    let mut cost = StepCost::default();
    learn(&mut cost, &MACHINE);
    let load = beside(decodes(8, 400), 40, 300);
    cost.observe(&load, 100 * MACHINE.micros(&load));
    assert_within(0.2, MACHINE.micros(&load) as f64, cost.predict(&load));
}

#[test]
fn hours_of_decodes_do_not_wipe_out_what_prompts_cost() {
    let mut cost = StepCost::default();
    learn(&mut cost, &MACHINE);
    let load = decodes(8, 100);
    (0..100_000).for_each(|_| cost.observe(&load, MACHINE.micros(&load)));
    let mixed = beside(load, 40, 300);
    assert_near(MACHINE.micros(&mixed) as f64, cost.predict(&mixed));
}

#[test]
fn a_machine_that_becomes_three_times_slower_is_noticed() {
    let mut cost = StepCost::default();
    learn(&mut cost, &MACHINE);
    let slower = Machine { fixed: 12_000, prompt: 1_500, decode: 2_100, reads: 750 };
    learn(&mut cost, &slower);
    let load = beside(decodes(8, 400), 40, 300);
    assert_near(slower.micros(&load) as f64, cost.predict(&load));
}

#[test]
fn a_machine_that_slows_down_among_decodes_does_so_for_prompts_too() {
    let mut cost = StepCost::default();
    learn(&mut cost, &MACHINE);
    (0..200).for_each(|_| cost.observe(&decodes(8, 400), 4 * MACHINE.micros(&decodes(8, 400))));
    let chunk = beside(StepLoad::default(), 40, 300);
    assert_within(0.25, 4.0 * (MACHINE.micros(&chunk) - MACHINE.fixed) as f64, cost.of_chunk(40, 300));
}

#[test]
fn chunks_grow_no_further_than_to_twice_what_was_seen() {
    let mut cost = StepCost::default();
    assert_eq!(cost.max_known_chunk(), 64);
    cost.observe(&beside(decodes(1, 10), 50, 0), 9_000);
    assert_eq!(cost.max_known_chunk(), 100);
    (0..400).for_each(|_| cost.observe(&beside(decodes(1, 10), 5, 0), 9_000));
    assert_eq!(cost.max_known_chunk(), 64);
}

#[test]
fn costs_stay_finite_and_positive_whatever_steps_take() {
    let mut cost = StepCost::default();
    for step in 0..2_000_u64 {
        let micros = [0, 1, u64::MAX, step * step, 7][step as usize % 5];
        let load = match step % 3 {
            0 => decodes(step as u32 % 500, u32::MAX),
            1 => beside(StepLoad::default(), 1 + step as u32 % 3_000, 0),
            _ => beside(decodes(1, 0), 1, u32::MAX),
        };
        cost.observe(&load, micros);
        assert!(cost.weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0), "{cost:?}");
    }
}
