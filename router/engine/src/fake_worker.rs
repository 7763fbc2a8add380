//! An in-process worker group with scripted tokens and faults, behind real gRPC.
//!
//! It keeps the protocol to the letter: a plan that breaks a rule is a *violation*, which is recorded and breaks the
//! stream. What it lacks is a model: `FakeTokens` says which token comes next.

mod model;
mod record;
mod script;
mod service;

use std::sync::Arc;
use std::time::Duration;

use forebay_scheduler::StepTarget;
use forebay_wire::MAX_MESSAGE_BYTES;
use forebay_wire::v1::worker_server::WorkerServer;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::error::GroupError;
use crate::group::{GroupExit, Life, WorkerGroup};
use crate::handle::EngineConfig;
use crate::heartbeat::Heartbeat;

pub use record::{FakeEvent, FakeHandle};
pub use script::{FakeScript, FakeSizes, FakeTokens, Fault, NextToken, StepFault};
use service::FakeShard;

/// Bytes under way in one direction of a shard's connection.
const PIPE_BYTES: usize = 1 << 16;

/// A worker group that runs as tasks of this process.
#[derive(Debug)]
pub struct FakeGroup {
    script: Arc<FakeScript>,
    handle: FakeHandle,
    exit: watch::Sender<Option<GroupExit>>,
    tasks: JoinSet<()>,
}

impl FakeGroup {
    /// A group that follows `script`.
    pub fn new(script: FakeScript) -> Self {
        let exit = watch::Sender::new(None);
        let handle = FakeHandle::new(exit.clone());
        Self { script: Arc::new(script), handle, exit, tasks: JoinSet::new() }
    }

    /// Sees what the group did, and can kill its shards.
    pub fn handle(&self) -> FakeHandle {
        self.handle.clone()
    }

    /// One shard's server; answers the engine's end of the connection.
    fn spawn_shard(&mut self, rank: u32, life: Life) -> DuplexStream {
        let (near, far) = duplex(PIPE_BYTES);
        let shard = FakeShard::new(rank, life, Arc::clone(&self.script), self.handle.clone());
        let service = WorkerServer::new(shard)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let mut exits = self.exit.subscribe();
        let server = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(far), TowerToHyperService::new(service));
        self.tasks.spawn(async move {
            // Whichever ends first closes the connection at once, as the kernel closes a dead process's socket.
            tokio::select! {
                _ = server => {}
                _ = exits.wait_for(Option::is_some) => {}
            }
        });
        near
    }
}

impl WorkerGroup for FakeGroup {
    async fn start(&mut self, life: Life) -> Result<Vec<Channel>, GroupError> {
        let incarnation = life.incarnation;
        self.exit.send_replace(None);
        self.handle.record(FakeEvent::Started { incarnation });
        if self.script.faults.contains(&Fault::Start { incarnation }) {
            return Err(GroupError::Start("shard 0 exited with code 1".to_owned()));
        }
        let mut channels = Vec::new();
        for rank in 0..self.script.sizes.world_size {
            let near = self.spawn_shard(rank, life);
            channels.push(connect(near).await?);
        }
        if self.script.faults.contains(&Fault::ExitWhileLoading { incarnation }) {
            self.handle.kill_shard(0, "exited with code 1");
        }
        Ok(channels)
    }

    async fn exited(&mut self) -> GroupExit {
        let mut exits = self.exit.subscribe();
        let exit = exits.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        match exit {
            Some(exit) => exit,
            // Cannot be: `self` holds the sender.
            None => std::future::pending().await,
        }
    }

    async fn kill(&mut self) {
        self.handle.stop_shards().await;
        self.tasks.shutdown().await;
        self.handle.record(FakeEvent::Killed);
    }
}

/// A channel over an open connection; it cannot connect a second time.
async fn connect(near: DuplexStream) -> Result<Channel, GroupError> {
    let mut near = Some(near);
    let connector = tower::service_fn(move |_| {
        let near = near.take().map(TokioIo::new);
        async move { near.ok_or_else(|| std::io::Error::other("the fake worker is gone")) }
    });
    let endpoint = Endpoint::from_static("http://fake-worker");
    endpoint.connect_with_connector(connector).await.map_err(|error| GroupError::Start(error.to_string()))
}

/// A configuration that suits the fake worker: one step ahead, short deadlines, no operator's limits.
pub fn engine_config() -> EngineConfig {
    EngineConfig {
        run_ahead: 1,
        step_target: StepTarget::Unbounded,
        max_queued: 4096,
        max_queued_tokens: 1 << 24,
        max_cached_tokens: None,
        max_total_tokens: None,
        max_plan_tokens: None,
        max_sequences: None,
        tokenizer_vocab_size: 1,
        start_timeout: Duration::from_secs(10),
        restart_timeout: Duration::from_secs(300),
        step_timeout: Duration::from_secs(5),
        heartbeat: Heartbeat { interval: Duration::from_secs(5), max_missed: 5 },
        max_buffered_events: 4096,
        prefix_caching: true,
    }
}
