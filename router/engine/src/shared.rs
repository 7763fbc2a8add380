//! What the drivers tell the handles: the state, limits and counts of each group, and what follows for all together.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use forebay_scheduler::Stats;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::handle::{EngineState, WorkerInfo};

/// One entry a group in each, by replica.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Time 0 of all drivers, so that a request which moves keeps its times.
    began: Instant,
    states: watch::Sender<Vec<EngineState>>,
    worker_infos: RwLock<Vec<Option<WorkerInfo>>>,
    stats: Mutex<Vec<Stats>>,
}

impl Shared {
    pub(crate) fn new(num_groups: usize) -> Self {
        Self {
            began: Instant::now(),
            states: watch::Sender::new(vec![EngineState::Starting; num_groups]),
            worker_infos: RwLock::new(vec![None; num_groups]),
            stats: Mutex::new(vec![Stats::default(); num_groups]),
        }
    }

    pub(crate) fn state(&self) -> EngineState {
        combined(&self.states.borrow()).clone()
    }

    pub(crate) fn group_states(&self) -> Vec<EngineState> {
        self.states.borrow().clone()
    }

    /// Resolves when `answer` finds one in the states of all groups.
    pub(crate) async fn wait_for<T>(&self, answer: impl Fn(&[EngineState]) -> Option<T>) -> T {
        let mut states = self.states.subscribe();
        loop {
            if let Some(found) = answer(&states.borrow_and_update()) {
                return found;
            }
            if states.changed().await.is_err() {
                // Cannot be: `self` holds the sender.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Reads what the group with the least room said, for what fits there fits everywhere.
    pub(crate) fn with_worker_info<T>(&self, read: impl FnOnce(Option<&WorkerInfo>) -> T) -> T {
        let infos = self.worker_infos.read().unwrap_or_else(PoisonError::into_inner);
        read(infos.iter().flatten().min_by_key(|info| info.max_total_tokens))
    }

    pub(crate) fn stats(&self) -> Stats {
        let stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.iter().fold(Stats::default(), |sum, one| sum_of(&sum, one))
    }
}

/// One group's side of it.
#[derive(Debug, Clone)]
pub(crate) struct GroupReport {
    shared: Arc<Shared>,
    replica: usize,
}

impl GroupReport {
    pub(crate) fn new(shared: Arc<Shared>, replica: usize) -> Self {
        Self { shared, replica }
    }

    pub(crate) fn began(&self) -> Instant {
        self.shared.began
    }

    pub(crate) fn state(&self) -> EngineState {
        self.shared.states.borrow()[self.replica].clone()
    }

    pub(crate) fn group_states(&self) -> Vec<EngineState> {
        self.shared.group_states()
    }

    pub(crate) fn set_state(&self, state: EngineState) {
        self.shared.states.send_modify(|states| states[self.replica] = state);
    }

    pub(crate) fn set_worker_info(&self, info: WorkerInfo) {
        self.shared.worker_infos.write().unwrap_or_else(PoisonError::into_inner)[self.replica] = Some(info);
    }

    pub(crate) fn set_stats(&self, stats: Stats) {
        self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)[self.replica] = stats;
    }
}

/// What the engine as a whole can do: as much as the best of its groups, and nothing new once one of them drains, for
/// all are told to at once.
pub(crate) fn combined(states: &[EngineState]) -> &EngineState {
    let order = |state: &&EngineState| match state {
        EngineState::Draining => 0,
        EngineState::Ready => 1,
        EngineState::Restarting(_) => 2,
        EngineState::Starting => 3,
        EngineState::Failed(_) => 4,
    };
    states.iter().min_by_key(order).unwrap_or(&EngineState::Starting)
}

/// Whether no group is in its first start any more; an error if one of them has failed.
pub(crate) fn all_started(states: &[EngineState]) -> Option<Result<(), String>> {
    let failed = states.iter().enumerate().find_map(|(replica, state)| match state {
        EngineState::Failed(reason) if states.len() > 1 => Some(format!("replica {replica}: {reason}")),
        EngineState::Failed(reason) => Some(reason.clone()),
        _ => None,
    });
    match failed {
        Some(reason) => Some(Err(reason)),
        None => (!states.contains(&EngineState::Starting)).then_some(Ok(())),
    }
}

fn sum_of(left: &Stats, right: &Stats) -> Stats {
    Stats {
        queued: left.queued + right.queued,
        queued_tokens: left.queued_tokens + right.queued_tokens,
        running: left.running + right.running,
        blocks_held: left.blocks_held + right.blocks_held,
        blocks_cached: left.blocks_cached + right.blocks_cached,
        blocks_free: left.blocks_free + right.blocks_free,
        blocks_fenced: left.blocks_fenced + right.blocks_fenced,
        plans_in_flight: left.plans_in_flight + right.plans_in_flight,
        preemptions: left.preemptions + right.preemptions,
        rollbacks: left.rollbacks + right.rollbacks,
        resumptions: left.resumptions + right.resumptions,
        suspects: left.suspects + right.suspects,
        evictions: left.evictions + right.evictions,
        prefix_queried_tokens: left.prefix_queried_tokens + right.prefix_queried_tokens,
        prefix_hit_tokens: left.prefix_hit_tokens + right.prefix_hit_tokens,
    }
}
