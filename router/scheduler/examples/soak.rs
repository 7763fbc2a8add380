//! Runs fresh seeds of the simulation for as long as asked: `soak SECONDS [FIRST_SEED]`.
#![allow(clippy::print_stdout, clippy::disallowed_macros, clippy::disallowed_methods, clippy::disallowed_types)]

#[path = "../tests/simulation/mod.rs"]
mod simulator;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use simulator::{Coverage, run_seed};

const STEPS_PER_SEED: u64 = 420;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(seconds)), first_seed @ (None | Some(Ok(_)))) = (arguments.next(), arguments.next()) else {
        println!("usage: soak SECONDS [FIRST_SEED]");
        return ExitCode::FAILURE;
    };
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let first_seed = first_seed.and_then(Result::ok).unwrap_or_else(fresh);
    let (started, mut seed, mut num_violations) = (Instant::now(), first_seed, 0u64);
    let (mut coverage, mut slowest) = (Coverage::default(), 0);
    while started.elapsed() < Duration::from_secs(seconds) {
        // A violation has printed its seed: go on, the next seeds may say more about it.
        match std::panic::catch_unwind(|| run_seed(seed, STEPS_PER_SEED)) {
            Ok(outcome) => {
                coverage.add(&outcome.coverage);
                slowest = slowest.max(outcome.drained_in);
                // Now and then, the same seed again: it must give the same log.
                let is_repeated = seed % 64 == 0;
                num_violations += u64::from(is_repeated && run_seed(seed, STEPS_PER_SEED).log_hash != outcome.log_hash);
            }
            Err(_) => num_violations += 1,
        }
        seed = seed.wrapping_add(1);
    }
    let rows = coverage.num_rows as f64 / coverage.num_steps.max(1) as f64;
    let num_seeds = seed.wrapping_sub(first_seed);
    println!(
        "{} steps over {num_seeds} seeds from {first_seed}, {rows:.2} rows a step, {} requests, {num_violations} violations",
        coverage.num_steps, coverage.num_requests
    );
    for (rare, hits) in coverage.counts() {
        println!("{hits:>12}  {rare:?}");
    }
    println!("drained in at most {slowest} percent of the bound; never met: {:?}", coverage.missed());
    if num_violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
