//! A small pool of threads for processes without libgomp (tests, programs without torch). Its threads sleep when idle.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

/// A region's body with its lifetime erased: `Team::run` does not return while a thread may still call it.
#[derive(Clone, Copy)]
struct Body(*const (dyn Fn() + Sync));

// SAFETY: the body is `Sync`, so any thread may call it; `run` keeps it alive.
unsafe impl Send for Body {}

#[derive(Default)]
struct State {
    body: Option<Body>,
    /// Threads that may still join the region.
    open_places: usize,
    /// Threads inside the region.
    num_active: usize,
    panicked: bool,
}

/// The pool's threads and the region they run.
pub(super) struct Team {
    state: Mutex<State>,
    work_arrived: Condvar,
    thread_left: Condvar,
    /// Held for the length of a region: one at a time.
    region: Mutex<()>,
    num_threads: usize,
}

/// The process's pool, started at the first call with a thread for every core.
pub(super) fn team() -> &'static Team {
    static TEAM: OnceLock<&'static Team> = OnceLock::new();
    TEAM.get_or_init(|| {
        let num_threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let team: &'static Team = Box::leak(Box::new(Team {
            state: Mutex::default(),
            work_arrived: Condvar::new(),
            thread_left: Condvar::new(),
            region: Mutex::new(()),
            num_threads,
        }));
        for _ in 1..num_threads {
            thread::spawn(|| team.work());
        }
        team
    })
}

impl Team {
    pub(super) fn num_threads(&self) -> usize {
        self.num_threads
    }

    /// Runs `body` on the calling thread and on up to `num_threads - 1` of the pool's.
    pub(super) fn run(&self, num_threads: usize, body: &(dyn Fn() + Sync)) {
        let Ok(region) = self.region.try_lock() else {
            // Another caller has the pool (or this is a nested region): the work gets done here.
            body();
            return;
        };
        // SAFETY: only the lifetime changes; `close` below waits until no thread is inside the region.
        let erased = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(body) };
        {
            let mut state = self.lock();
            state.body = Some(Body(erased));
            state.open_places = num_threads - 1;
        }
        self.work_arrived.notify_all();
        let outcome = catch_unwind(AssertUnwindSafe(body));
        let panicked = self.close();
        drop(region);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        assert!(!panicked, "a task panicked on another thread");
    }

    /// Lets no more threads in and waits for those inside; true if one of them panicked.
    fn close(&self) -> bool {
        let mut state = self.lock();
        state.open_places = 0;
        while state.num_active > 0 {
            state = self.thread_left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.body = None;
        std::mem::take(&mut state.panicked)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            let Some(body) = state.body.filter(|_| state.open_places > 0) else {
                state = self.work_arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.open_places -= 1;
            state.num_active += 1;
            drop(state);
            // SAFETY: `num_active` counts this thread, so `run` has not returned and the body is alive.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (*body.0)() }));
            state = self.lock();
            state.num_active -= 1;
            state.panicked |= outcome.is_err();
            self.thread_left.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
