//! A seeded simulation of the scheduler on a worker that keeps the protocol: it submits, cancels, delays, fails and
//! kills at random, and checks after every step that nothing was lost, crossed, repeated or starved.
//!
//! Used by the test of the same name and by the example `soak`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_macros, clippy::print_stderr)]

mod answers;
mod chunks;
mod cover;
mod coverage;
mod liveness;
mod log;
mod losses;
mod mirror;
mod oracle;
mod record;
mod rng;
mod swarm;
mod worker;
mod world;

pub(crate) use coverage::Coverage;

/// What became of one seed.
pub(crate) struct Outcome {
    pub(crate) coverage: Coverage,
    /// Of every plan and event, in order.
    pub(crate) log_hash: u64,
    /// Steps until everybody had ended, in percent of what they may take.
    pub(crate) drained_in: u64,
}

/// Runs a seed until about `num_steps` plans with rows have been sent, then until everything has ended.
/// Panics on a violation, after printing seed and step.
pub(crate) fn run_seed(seed: u64, num_steps: u64) -> Outcome {
    let mut world = world::World::new(seed);
    world.run(num_steps);
    let drained_in = world.drain();
    world.into_outcome(drained_in)
}
