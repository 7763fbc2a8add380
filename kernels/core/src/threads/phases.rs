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

/// Runs the phases in order on up to `num_threads` threads; see [`parallel_region`].
pub(crate) fn parallel_phases(num_threads: usize, phases: &[Phase<'_>]) {
    parallel_region(num_threads, phases.len(), |member| {
        phases.iter().try_for_each(|phase| member.run(phase.num_tasks, phase.task))
    });
}

/// Runs `body` on up to `num_threads` threads, each of which must go through the same `num_phases` phases.
///
/// A phase is over when its tasks are done, not when all threads have come: one that another process holds back keeps
/// nobody waiting but for the task it is in. Panics if a task panicked.
pub(crate) fn parallel_region(
    num_threads: usize,
    num_phases: usize,
    body: impl Fn(&mut Member<'_>) -> Result<(), Abandoned> + Sync,
) {
    if num_threads <= 1 {
        // Nobody else could abandon it.
        let _ = body(&mut Member { region: None, next_phase: 0 });
        return;
    }
    let region =
        Region { phases: (0..num_phases).map(|_| Progress::default()).collect(), is_abandoned: AtomicBool::new(false) };
    let work = || {
        let _ = body(&mut Member { region: Some(&region), next_phase: 0 });
    };
    match gomp::team() {
        Some(team) => team.run(num_threads, &work),
        None => pool::team().run(num_threads, &work),
    }
}

/// Another thread's task has panicked: its phase never ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Abandoned;

/// A phase's counters, on a cache line of their own.
#[derive(Default)]
#[repr(align(64))]
struct Progress {
    num_taken: AtomicUsize,
    num_done: AtomicUsize,
}

struct Region {
    phases: Vec<Progress>,
    is_abandoned: AtomicBool,
}

/// One thread on its way through a region.
pub(crate) struct Member<'a> {
    /// None where the thread is alone.
    region: Option<&'a Region>,
    next_phase: usize,
}

impl Member<'_> {
    /// The next phase: returns when its tasks are done, whoever has run them. What they have written, the next phase
    /// sees.
    pub(crate) fn run(&mut self, num_tasks: usize, task: impl Fn(usize)) -> Result<(), Abandoned> {
        let Some(region) = self.region else {
            (0..num_tasks).for_each(task);
            return Ok(());
        };
        let progress = &region.phases[self.next_phase];
        self.next_phase += 1;
        if num_tasks == 0 {
            return Ok(());
        }
        loop {
            let index = progress.num_taken.fetch_add(1, Ordering::Relaxed);
            if index >= num_tasks {
                break;
            }
            let guard = Guard(&region.is_abandoned);
            task(index);
            std::mem::forget(guard);
            // Release here and Acquire in `wait` hand the task's writes on.
            progress.num_done.fetch_add(1, Ordering::Release);
        }
        region.wait(progress, num_tasks)
    }
}

impl Region {
    fn wait(&self, progress: &Progress, num_tasks: usize) -> Result<(), Abandoned> {
        let mut num_spins = 0;
        while progress.num_done.load(Ordering::Acquire) < num_tasks {
            if self.is_abandoned.load(Ordering::Relaxed) {
                return Err(Abandoned);
            }
            num_spins += 1;
            if num_spins < MAX_SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        Ok(())
    }
}

/// Tells the other threads when it is dropped, which only a panic does.
struct Guard<'a>(&'a AtomicBool);

impl Drop for Guard<'_> {
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
