//! Several kinds of work that follow each other in one region: entering one costs 1 to 2 us, a phase's end a tenth.

use super::{gomp, pool};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Looks at a phase's end before a thread offers its core to others: about 20 us.
const MAX_SPINS: usize = 1_000;

/// `task(0)` to `task(num_tasks - 1)`, each to be run once.
#[derive(Clone, Copy)]
pub(crate) struct Phase<'a> {
    pub(crate) num_tasks: usize,
    pub(crate) task: &'a (dyn Fn(usize) + Sync),
}

/// Runs the phases in order on up to `num_threads` threads: what the tasks of one have written, those of the next see.
///
/// A phase is over when its tasks are done, not when all threads have come: one that another process holds back keeps
/// nobody waiting but for the task it is in. Panics if a task panicked.
pub(crate) fn parallel_phases(num_threads: usize, phases: &[Phase<'_>]) {
    if num_threads <= 1 {
        for phase in phases {
            (0..phase.num_tasks).for_each(phase.task);
        }
        return;
    }
    let region = Region {
        progress: phases.iter().map(|phase| Progress::new(phase.num_tasks)).collect(),
        is_poisoned: AtomicBool::new(false),
    };
    let body = || region.work(phases);
    match gomp::team() {
        Some(team) => team.run(num_threads, &body),
        None => pool::team().run(num_threads, &body),
    }
}

/// A phase's counters, on a cache line of their own.
#[repr(align(64))]
struct Progress {
    next: AtomicUsize,
    num_left: AtomicUsize,
}

impl Progress {
    fn new(num_tasks: usize) -> Self {
        Self { next: AtomicUsize::new(0), num_left: AtomicUsize::new(num_tasks) }
    }
}

struct Region {
    progress: Vec<Progress>,
    /// A task has panicked: its phase never ends.
    is_poisoned: AtomicBool,
}

impl Region {
    fn work(&self, phases: &[Phase<'_>]) {
        for (phase, progress) in phases.iter().zip(&self.progress) {
            loop {
                let index = progress.next.fetch_add(1, Ordering::Relaxed);
                if index >= phase.num_tasks {
                    break;
                }
                let poison = Poison(&self.is_poisoned);
                (phase.task)(index);
                std::mem::forget(poison);
                // Release here and Acquire in `wait` hand the task's writes on.
                progress.num_left.fetch_sub(1, Ordering::Release);
            }
            if !self.wait(progress) {
                return;
            }
        }
    }

    /// False if the phase will never end.
    fn wait(&self, progress: &Progress) -> bool {
        let mut num_spins = 0;
        while progress.num_left.load(Ordering::Acquire) > 0 {
            if self.is_poisoned.load(Ordering::Relaxed) {
                return false;
            }
            num_spins += 1;
            if num_spins < MAX_SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        true
    }
}

/// Tells the other threads when it is dropped, which only a panic does.
struct Poison<'a>(&'a AtomicBool);

impl Drop for Poison<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_phase_begins_when_all_tasks_of_the_one_before_are_done() {
        for num_threads in [1, 2, 4] {
            for _ in 0..200 {
                let (first, second) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let count = |_| {
                    first.fetch_add(1, Ordering::Relaxed);
                };
                let check = |_| {
                    assert_eq!(first.load(Ordering::Relaxed), 5);
                    second.fetch_add(1, Ordering::Relaxed);
                };
                let nothing = Phase { num_tasks: 0, task: &check };
                parallel_phases(
                    num_threads,
                    &[Phase { num_tasks: 5, task: &count }, nothing, Phase { num_tasks: 3, task: &check }],
                );
                assert_eq!(second.into_inner(), 3);
            }
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_leaves_no_thread_waiting() {
        let fail = |index| assert_ne!(index, 2);
        let after = |_| unreachable!("the phase before has not ended");
        let phases = [Phase { num_tasks: 4, task: &fail }, Phase { num_tasks: 1, task: &after }];
        for num_threads in [1, 2, 4] {
            assert!(catch_unwind(AssertUnwindSafe(|| parallel_phases(num_threads, &phases))).is_err());
        }
        a_phase_begins_when_all_tasks_of_the_one_before_are_done();
    }
}
