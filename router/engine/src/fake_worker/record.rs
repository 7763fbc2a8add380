//! What a fake worker group did, for assertions; and the hand that kills its shards.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_wire::SamplingParams;
use forebay_wire::v1::StepPlan;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::group::GroupExit;

/// One thing that happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FakeEvent {
    /// The group was started.
    Started {
        /// Which life.
        incarnation: u64,
    },
    /// A shard took a plan off its stream.
    Received {
        /// Which shard.
        rank: u32,
        /// Which step.
        step_id: u64,
    },
    /// A shard answered a step.
    Answered {
        /// Which shard.
        rank: u32,
        /// Which step.
        step_id: u64,
    },
    /// The group was killed.
    Killed,
}

#[derive(Debug, Default)]
struct Record {
    events: Vec<FakeEvent>,
    plans: Vec<StepPlan>,
    violations: Vec<String>,
    steps: JoinSet<()>,
}

/// A view of a [`super::FakeGroup`], also after the engine has taken it.
#[derive(Debug, Clone)]
pub struct FakeHandle {
    record: Arc<Mutex<Record>>,
    exit: watch::Sender<Option<GroupExit>>,
}

impl FakeHandle {
    pub(super) fn new(exit: watch::Sender<Option<GroupExit>>) -> Self {
        Self { record: Arc::default(), exit }
    }

    /// Everything that happened so far.
    pub fn events(&self) -> Vec<FakeEvent> {
        self.lock().events.clone()
    }

    /// The plans that rank 0 took, of all lives.
    pub fn plans(&self) -> Vec<StepPlan> {
        self.lock().plans.clone()
    }

    /// The sampling parameters of every sequence, in the order in which they appeared.
    pub fn samplings(&self) -> Vec<SamplingParams> {
        let record = self.lock();
        let sequences = record.plans.iter().flat_map(|plan| &plan.new_sequences);
        sequences.filter_map(|new| new.sampling.clone()).collect()
    }

    /// The rules that plans broke; empty for a right engine.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Ends a shard now, as a signal or a crash would. `reason` is what its parent sees: "killed by signal 9".
    pub fn kill_shard(&self, rank: u32, reason: &str) {
        self.exit.send_replace(Some(GroupExit { rank, reason: reason.to_owned() }));
    }

    pub(super) fn record(&self, event: FakeEvent) {
        self.lock().events.push(event);
    }

    pub(super) fn received(&self, rank: u32, plan: &StepPlan) {
        let mut record = self.lock();
        record.events.push(FakeEvent::Received { rank, step_id: plan.step_id });
        if rank == 0 {
            record.plans.push(plan.clone());
        }
    }

    /// The newest step that this shard has answered in the running life.
    pub(super) fn last_answered(&self, rank: u32) -> Option<u64> {
        let record = self.lock();
        let mut life = record.events.iter().rev().take_while(|event| !matches!(event, FakeEvent::Started { .. }));
        life.find_map(|event| match event {
            FakeEvent::Answered { rank: of, step_id } if *of == rank => Some(*step_id),
            _ => None,
        })
    }

    pub(super) fn violated(&self, rule: String) {
        self.lock().violations.push(rule);
    }

    /// A task of a shard's stream; it ends with the group.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.lock().steps.spawn(task);
    }

    pub(super) async fn stop_shards(&self) {
        let mut steps = std::mem::take(&mut self.lock().steps);
        steps.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
