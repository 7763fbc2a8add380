//! One worker as a process: what it inherits, its three pipes, how it is seen to end and is killed, whoever forked it.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::cores;
use crate::process::{child_command, describe_exit, kill_group};
use crate::settings::WorkerSettings;
use crate::spare::Spare;

/// The hub's keys: workers read local files.
const HUB_SECRETS: [&str; 3] = ["HF_TOKEN", "HF_API_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
/// Any of these says that the operator binds threads.
const BINDING: [&str; 3] = ["OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"];
/// How long a spare process may take to kill a worker, before it is killed with it.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// What libraries read when they are loaded, so that it cannot change after a fork.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WorkerEnvironment {
    num_threads: u32,
    /// The cores of its own, one a thread, where threads are to be bound.
    places: Option<String>,
}

impl WorkerEnvironment {
    /// That of one shard of one replica.
    pub(crate) fn of(settings: &WorkerSettings, replica: u32, rank: u32) -> Self {
        let WorkerSettings { num_replicas, num_shard, num_threads, .. } = *settings;
        let is_bound_by_operator = BINDING.iter().any(|variable| std::env::var_os(variable).is_some());
        let own_places =
            || cores::places(&cores::allowed(), replica * num_shard + rank, num_replicas * num_shard, num_threads);
        Self { num_threads, places: if is_bound_by_operator { None } else { own_places() } }
    }

    /// `python -m forebay_worker TASK`, to die with us.
    pub(crate) fn command(&self, python: &Path, task: &str) -> Command {
        let mut command = child_command(python);
        command
            .args(["-m", "forebay_worker", task])
            // The team of threads that torch and the kernels share is sized from this at their first use.
            .env("OMP_NUM_THREADS", self.num_threads.to_string())
            // numpy multiplies nothing here, and its library would start threads as soon as it is loaded.
            .env("OPENBLAS_NUM_THREADS", "1")
            .env("PYTHONUNBUFFERED", "1");
        if let Some(places) = &self.places {
            command.env("OMP_PLACES", places).env("OMP_PROC_BIND", "true");
        }
        for variable in HUB_SECRETS {
            command.env_remove(variable);
        }
        command
    }
}

/// Our ends of a worker's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: pipe::Sender,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
}

/// The worker's ends of them.
#[derive(Debug)]
pub(crate) struct StandardStreams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Pipes {
    pub(crate) fn open() -> io::Result<(Self, StandardStreams)> {
        let (stdin, to_stdin) = io::pipe()?;
        let (from_stdout, stdout) = io::pipe()?;
        let (from_stderr, stderr) = io::pipe()?;
        let ours = Self {
            stdin: pipe::Sender::from_owned_fd(to_stdin.into())?,
            stdout: pipe::Receiver::from_owned_fd(from_stdout.into())?,
            stderr: pipe::Receiver::from_owned_fd(from_stderr.into())?,
        };
        Ok((ours, StandardStreams { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into() }))
    }
}

impl StandardStreams {
    pub(crate) fn give_to(self, command: &mut Command) {
        command.stdin(Stdio::from(self.stdin)).stdout(Stdio::from(self.stdout)).stderr(Stdio::from(self.stderr));
    }
}

/// A worker that was started and has not been seen to end.
#[derive(Debug)]
pub(crate) enum WorkerProcess {
    /// Our child.
    Child(Child),
    /// The child of a spare process, which tells of its end.
    Forked(ForkedWorker),
}

/// A worker that a spare process has forked from itself.
#[derive(Debug)]
pub(crate) struct ForkedWorker {
    pub(crate) pid: u32,
    pub(crate) ended: oneshot::Receiver<ExitStatus>,
    pub(crate) spare: Spare,
}

impl WorkerProcess {
    pub(crate) fn id(&self) -> Option<u32> {
        match self {
            Self::Child(child) => child.id(),
            Self::Forked(worker) => Some(worker.pid),
        }
    }

    /// Waits until it is gone, by itself or because `killed` resolves, and says how it went.
    pub(crate) async fn reap(self, killed: impl Future) -> String {
        match self {
            Self::Child(child) => reap_child(child, killed).await,
            Self::Forked(worker) => worker.reap(killed).await,
        }
    }
}

async fn reap_child(mut child: Child, killed: impl Future) -> String {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = killed => {
            kill_group(&child);
            child.wait().await
        }
    };
    describe_exit(status)
}

impl ForkedWorker {
    async fn reap(self, killed: impl Future) -> String {
        let Self { pid, ended, spare } = self;
        let kill = async {
            killed.await;
            spare.kill_worker(pid);
            tokio::time::sleep(KILL_TIMEOUT).await;
            tracing::warn!(pid, "the spare process does not answer; it is killed, and its workers with it");
            spare.give_up();
            pending::<Infallible>().await
        };
        tokio::select! {
            status = ended => match status {
                Ok(status) => describe_exit(Ok(status)),
                Err(_) => "went with its spare process".to_owned(),
            },
            never = kill => match never {},
        }
    }
}
