//! How far the generator itself falls behind: a clock on its only thread, and that thread's time on a core.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::record::micros;

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(10);

/// Measures from its start until it is asked.
#[derive(Debug)]
pub(crate) struct LagClock {
    late_us: Arc<Mutex<Vec<u32>>>,
    ticking: JoinHandle<()>,
    started: Instant,
    cpu_before: Duration,
}

impl LagClock {
    /// Must be called on the runtime's only thread.
    pub(crate) fn start() -> Self {
        let late_us = Arc::new(Mutex::new(Vec::new()));
        let ticking = tokio::spawn(tick(Arc::clone(&late_us)));
        Self { late_us, ticking, started: Instant::now(), cpu_before: thread_cpu_time() }
    }

    /// By how much each tick came too late, in microseconds, and the part of a core that the thread took.
    pub(crate) fn stop(self) -> (Vec<u32>, f64) {
        self.ticking.abort();
        let cpu = thread_cpu_time().saturating_sub(self.cpu_before);
        let late_us = std::mem::take(&mut *self.late_us.lock().unwrap_or_else(PoisonError::into_inner));
        (late_us, cpu.as_secs_f64() / self.started.elapsed().as_secs_f64())
    }
}

async fn tick(late_us: Arc<Mutex<Vec<u32>>>) {
    loop {
        let due = Instant::now() + TICK;
        tokio::time::sleep_until(due.into()).await;
        let late = micros(due.elapsed());
        late_us.lock().unwrap_or_else(PoisonError::into_inner).push(late);
    }
}

fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
