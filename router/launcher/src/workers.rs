//! A worker group made of processes: one a shard, started, watched and killed together.
//!
//! Each gets its configuration as the first line on stdin, so that nothing of it shows in a process list; the pipe
//! stays open, and its end means exit.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_engine::{GroupError, GroupExit, Life, WorkerGroup};
use futures::future::{join_all, select_all, try_join_all};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::relay::{LastLines, relay};
use crate::run_folder::RunFolder;
use crate::settings::WorkerSettings;
use crate::worker_process::{Pipes, WorkerEnvironment, WorkerProcess};
use crate::worker_spawner::WorkerSpawner;

/// A worker opens its socket before it loads weights; an interpreter that has not done so by then never will.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a socket that is not there yet is tried.
const SOCKET_RETRY: Duration = Duration::from_millis(20);
/// How long the last lines of a dead worker may take to be read.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

/// One shard's configuration, field by field what `forebay_worker/config.py` reads.
#[derive(Debug, Serialize)]
struct WorkerConfig<'a> {
    model_path: &'a Path,
    socket_path: &'a Path,
    rendezvous_path: &'a Path,
    incarnation: u64,
    rank: u32,
    world_size: u32,
    replica: u32,
    num_replicas: u32,
    num_threads: u32,
    dtype: Option<&'a str>,
    kv_cache_dtype: Option<&'a str>,
    device: &'a str,
    cuda_memory_fraction: f64,
    custom_kernels: bool,
    block_size: u32,
    max_sequences: u32,
    max_plan_tokens: u32,
    max_total_tokens: Option<u32>,
    kv_cache_bytes: Option<u64>,
    kv_cache_tokens: Option<u64>,
    num_blocks: Option<u32>,
    max_run_ahead: u32,
    attention: &'a str,
    deterministic: bool,
    log_level: &'a str,
}

/// The processes of one tensor-parallel group.
#[derive(Debug)]
pub(crate) struct ProcessGroup {
    spawner: WorkerSpawner,
    model_path: PathBuf,
    settings: WorkerSettings,
    replica: u32,
    folder: RunFolder,
    shards: Vec<Shard>,
}

/// A running process; dropping it kills the process.
#[derive(Debug)]
struct Shard {
    rank: u32,
    /// How it ended, once it has.
    exit: watch::Receiver<Option<String>>,
    /// Nothing is ever sent: the watcher kills when this is dropped.
    alive: oneshot::Sender<Infallible>,
    watcher: JoinHandle<()>,
    last_lines: LastLines,
}

impl ProcessGroup {
    /// A group that is not started yet. Makes the folder for its sockets.
    pub(crate) fn new(
        spawner: WorkerSpawner,
        model_path: PathBuf,
        settings: WorkerSettings,
        replica: u32,
    ) -> io::Result<Self> {
        let folder = RunFolder::create()?;
        Ok(Self { spawner, model_path, settings, replica, folder, shards: Vec::new() })
    }

    fn config_line(&self, life: Life, rank: u32) -> serde_json::Result<String> {
        let Life { incarnation, num_blocks } = life;
        let settings = &self.settings;
        let config = WorkerConfig {
            model_path: &self.model_path,
            socket_path: &self.folder.socket(incarnation, rank),
            rendezvous_path: &self.folder.rendezvous(incarnation),
            incarnation,
            rank,
            world_size: settings.num_shard,
            replica: self.replica,
            num_replicas: settings.num_replicas,
            num_threads: settings.num_threads,
            dtype: settings.dtype.as_deref(),
            kv_cache_dtype: settings.kv_cache_dtype.as_deref(),
            device: &settings.device,
            cuda_memory_fraction: settings.cuda_memory_fraction,
            custom_kernels: settings.custom_kernels,
            block_size: settings.block_size,
            max_sequences: settings.max_sequences,
            max_plan_tokens: settings.max_plan_tokens,
            max_total_tokens: settings.max_total_tokens,
            kv_cache_bytes: settings.kv_cache_bytes,
            kv_cache_tokens: settings.kv_cache_tokens,
            num_blocks,
            max_run_ahead: settings.max_run_ahead,
            attention: &settings.attention,
            deterministic: settings.deterministic,
            log_level: settings.log_level,
        };
        Ok(serde_json::to_string(&config)? + "\n")
    }

    /// How the log names a worker.
    fn log_source(&self, rank: u32) -> String {
        if self.settings.num_replicas == 1 {
            return format!("worker {rank}");
        }
        format!("worker {rank} of replica {}", self.replica)
    }

    async fn spawn_shards(&mut self, life: Life) -> Result<(), GroupError> {
        for rank in 0..self.settings.num_shard {
            let line = self.config_line(life, rank).map_err(|error| start_error(rank, &error))?;
            let environment = WorkerEnvironment::of(&self.settings, self.replica, rank);
            let started = self.spawner.start(&environment).await;
            let (process, pipes) = started.map_err(|error| start_error(rank, &error))?;
            tracing::debug!(rank, life.incarnation, pid = process.id(), "worker started");
            self.shards.push(Shard::watch(process, pipes, rank, &self.log_source(rank), line));
        }
        Ok(())
    }

    async fn connect_shards(&mut self, incarnation: u64) -> Result<Vec<Channel>, GroupError> {
        let folder = &self.folder;
        let connections = self.shards.iter_mut().map(|shard| {
            let socket = folder.socket(incarnation, shard.rank);
            shard.connect(socket)
        });
        try_join_all(connections).await
    }
}

fn start_error(rank: u32, error: &dyn std::error::Error) -> GroupError {
    GroupError::Start(format!("worker {rank} could not be started: {error}"))
}

impl WorkerGroup for ProcessGroup {
    async fn start(&mut self, life: Life) -> Result<Vec<Channel>, GroupError> {
        self.kill().await;
        let mut result = self.spawn_shards(life).await;
        if result.is_ok() {
            match self.connect_shards(life.incarnation).await {
                Ok(channels) => return Ok(channels),
                Err(error) => result = Err(error),
            }
        }
        self.kill().await;
        result.map(|()| Vec::new())
    }

    async fn exited(&mut self) -> GroupExit {
        if self.shards.is_empty() {
            return std::future::pending().await;
        }
        let exits = self.shards.iter_mut().map(|shard| Box::pin(shard.exited()));
        select_all(exits).await.0
    }

    fn kill(&mut self) -> impl Future<Output = ()> + Send {
        // Told before the first await, so that all die even if the caller stops waiting.
        let watchers: Vec<_> = self.shards.drain(..).map(Shard::into_watcher).collect();
        let folder = self.folder.path().to_owned();
        async move {
            if !watchers.is_empty() {
                join_all(watchers).await;
                RunFolder::empty(&folder);
            }
        }
    }
}

impl Shard {
    /// Hands the process over to a task that feeds, logs and reaps it.
    fn watch(process: WorkerProcess, pipes: Pipes, rank: u32, log_source: &str, config_line: String) -> Self {
        let (exit_sender, exit) = watch::channel(None);
        let (alive, killed) = oneshot::channel();
        let last_lines = LastLines::default();
        let Pipes { stdin, stdout, stderr } = pipes;
        let relays = relay_outputs(stdout, stderr, log_source, &last_lines);
        let watcher = tokio::spawn(async move {
            let stdin = give_config(stdin, config_line).await;
            let reason = process.reap(killed).await;
            drop(stdin);
            // A grandchild may hold the pipes open for longer.
            let _ = tokio::time::timeout(LAST_LINES_TIMEOUT, relays).await;
            exit_sender.send_replace(Some(reason));
        });
        Self { rank, exit, alive, watcher, last_lines }
    }

    /// Kills the process; the watcher ends when it is gone.
    fn into_watcher(self) -> JoinHandle<()> {
        drop(self.alive);
        self.watcher
    }

    async fn exited(&mut self) -> GroupExit {
        let rank = self.rank;
        match self.exit.wait_for(Option::is_some).await {
            Ok(reason) => GroupExit { rank, reason: reason.clone().unwrap_or_default() },
            Err(_) => GroupExit { rank, reason: "was given up".to_owned() },
        }
    }

    /// A channel to the worker as soon as it listens; an error with its last words if it ends before.
    async fn connect(&mut self, socket: PathBuf) -> Result<Channel, GroupError> {
        let rank = self.rank;
        let last_lines = self.last_lines.clone();
        tokio::select! {
            channel = open_channel(&socket) => Ok(channel),
            exit = self.exited() => Err(GroupError::Start(died_message(&exit, &last_lines))),
            () = tokio::time::sleep(SOCKET_TIMEOUT) => Err(GroupError::Start(format!(
                "worker {rank} opened no socket within {} s", SOCKET_TIMEOUT.as_secs()
            ))),
        }
    }
}

fn died_message(exit: &GroupExit, last_lines: &LastLines) -> String {
    let lines = last_lines.text();
    let said = if lines.is_empty() { "it wrote nothing".to_owned() } else { format!("its last lines:\n{lines}") };
    format!("worker {} {} before it listened; {said}", exit.rank, exit.reason)
}

/// Starts the tasks that log both pipes; resolves when both have ended.
fn relay_outputs(
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    source: &str,
    last: &LastLines,
) -> impl Future<Output = ()> + Send + 'static {
    let relays = [stdout, stderr].map(|pipe| tokio::spawn(relay(pipe, source.to_owned(), last.clone())));
    async move {
        join_all(relays).await;
    }
}

/// Writes the first line and answers the pipe, to be held for the worker's life.
async fn give_config(mut stdin: pipe::Sender, line: String) -> pipe::Sender {
    // A worker that is gone cannot read; its exit tells more than the broken pipe.
    let _ = stdin.write_all(line.as_bytes()).await;
    stdin
}

/// Tries until the worker listens.
async fn open_channel(socket: &Path) -> Channel {
    loop {
        if let Some(channel) = try_channel(socket).await {
            return channel;
        }
        tokio::time::sleep(SOCKET_RETRY).await;
    }
}

async fn try_channel(socket: &Path) -> Option<Channel> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The name is never looked up: the connector knows the socket.
    Endpoint::from_static("http://worker.invalid").connect_with_connector(connector).await.ok()
}
