//! A million steps of random life on tiny pools, in seconds: see `simulation/mod.rs`.
#![allow(clippy::print_stdout, clippy::disallowed_macros, clippy::disallowed_methods)]

#[path = "simulation/mod.rs"]
mod simulator;

use simulator::{Coverage, run_seed};

const NUM_SEEDS: u64 = 2_500;
const STEPS_PER_SEED: u64 = 420;
const NUM_LIVENESS_SEEDS: u64 = 2_000;

#[test]
fn a_million_steps_of_random_life_break_no_invariant() {
    let half = |parity: u64| {
        move || {
            let mut coverage = Coverage::default();
            for seed in (0..NUM_SEEDS).filter(|seed| seed % 2 == parity) {
                coverage.add(&run_seed(seed, STEPS_PER_SEED).coverage);
            }
            coverage
        }
    };
    let other = std::thread::spawn(half(1));
    let mut coverage = half(0)();
    coverage.add(&other.join().unwrap());
    let mean_rows = coverage.num_rows as f64 / coverage.num_steps as f64;
    println!(
        "{} steps over {NUM_SEEDS} seeds, {mean_rows:.2} rows a step, {} requests",
        coverage.num_steps, coverage.num_requests
    );
    for (rare, hits) in coverage.counts() {
        println!("{hits:>9}  {rare:?}");
    }
    assert!(coverage.num_steps >= 1_000_000);
    assert!(mean_rows >= 4.0, "the simulation idles: {mean_rows} rows a step");
    assert_eq!(coverage.missed(), [], "branches that the simulation never met");
}

#[test]
fn when_faults_stop_everybody_ends_within_a_computed_number_of_steps() {
    let most = (0..NUM_LIVENESS_SEEDS).map(|seed| run_seed(1_000_000 + seed, 60).drained_in).max();
    println!("{NUM_LIVENESS_SEEDS} seeds drained in at most {most:?} percent of their bounds");
    assert!(most >= Some(10), "the bound says nothing");
}

#[test]
fn the_same_seed_gives_the_same_log() {
    for seed in 0..20 {
        let [first, second] = [run_seed(seed, 300).log_hash, run_seed(seed, 300).log_hash];
        assert_eq!(first, second, "seed {seed}");
        assert_ne!(first, run_seed(seed + 1, 300).log_hash);
    }
}
