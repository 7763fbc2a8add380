//! One way to run tasks in parallel: on the process's libgomp team where there is one, else on a small pool.
//!
//! torch's operators run on libgomp's threads, which spin for a while after each region. A second pool would fight
//! them for the cores, so kernels borrow the same team: an empty region then costs about a microsecond.

mod gomp;
mod phases;
mod pool;
mod shared_output;

pub(crate) use phases::{Abandoned, Member, Phase, parallel_phases, parallel_region};
pub(crate) use shared_output::SharedOutput;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Work below this many nanoseconds a thread is not worth a region: entering and leaving one costs 1 to 2 us.
const MIN_NANOSECONDS_PER_THREAD: usize = 2_000;

/// Threads that a region may use, the caller's included: `omp_get_max_threads()`, which `torch.set_num_threads` sets.
pub fn max_threads() -> usize {
    gomp::team().map_or_else(|| pool::team().num_threads(), gomp::Team::max_threads)
}

/// `"gomp"` or `"pool"`: whose threads run the tasks.
pub fn team_name() -> &'static str {
    if gomp::team().is_some() { "gomp" } else { "pool" }
}

/// How many threads to use for work that one thread would finish in about `nanoseconds`.
pub(crate) fn threads_for(nanoseconds: usize) -> usize {
    (nanoseconds / MIN_NANOSECONDS_PER_THREAD).clamp(1, max_threads().max(1))
}

/// Runs `task(0)` to `task(num_tasks - 1)`, each once, on up to `num_threads` threads; returns when all are done.
///
/// Tasks are taken in order, one at a time, by whichever thread is free: other processes may hold a core back, and a
/// static split would then wait for it. Panics if a task panicked.
pub fn parallel_for(num_threads: usize, num_tasks: usize, task: impl Fn(usize) + Sync) {
    let num_threads = num_threads.min(num_tasks);
    if num_threads <= 1 {
        (0..num_tasks).for_each(task);
        return;
    }
    let next = AtomicUsize::new(0);
    let body = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= num_tasks {
                break;
            }
            task(index);
        }
    };
    match gomp::team() {
        Some(team) => team.run(num_threads, &body),
        None => pool::team().run(num_threads, &body),
    }
}

/// Splits `num_items` into runs of equal length for [`parallel_for`]: about four a thread, so that a thread that is
/// late costs an eighth of the work at most. Returns the run length.
pub(crate) fn run_length(num_items: usize, num_threads: usize) -> usize {
    if num_threads <= 1 { num_items.max(1) } else { num_items.div_ceil(num_threads * 4).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        let counts: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..20 {
            parallel_for(4, counts.len(), |index| {
                counts[index].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 20));
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_team_survives() {
        let outcome = std::panic::catch_unwind(|| parallel_for(2, 8, |index| assert_ne!(index, 5)));
        assert!(outcome.is_err());
        every_task_runs_exactly_once();
    }

    #[test]
    fn run_lengths_cover_all_items() {
        for (num_items, num_threads) in [(0, 2), (1, 2), (7, 2), (3072, 2), (60, 1)] {
            let length = run_length(num_items, num_threads);
            assert!(num_items.div_ceil(length) * length >= num_items);
        }
    }
}
