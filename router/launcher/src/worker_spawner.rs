//! Starts workers: forked from a spare process that has imported everything, or as a Python of their own.
//!
//! One spare process serves all workers of all replicas whose environment is the same. Threads that are bound to
//! cores of their own make it differ: then each worker has its own.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::process::Spawner;
use crate::spare::Spare;
use crate::worker_process::{Pipes, WorkerEnvironment, WorkerProcess};

/// Every environment's spare process; `None` where it turned out that there can be none.
type Spares = Mutex<HashMap<WorkerEnvironment, Option<Spare>>>;

/// How workers come to be; clones share the spare processes.
#[derive(Clone, Debug)]
pub(crate) struct WorkerSpawner {
    spawner: Spawner,
    python: PathBuf,
    /// `None`: without.
    spares: Option<Arc<Spares>>,
}

impl WorkerSpawner {
    pub(crate) fn new(spawner: Spawner, python: PathBuf, with_spares: bool) -> Self {
        Self { spawner, python, spares: with_spares.then(Arc::default) }
    }

    /// Lets imports begin before there is anything to do for a worker.
    pub(crate) async fn prepare(&self, environments: impl IntoIterator<Item = WorkerEnvironment>) -> io::Result<()> {
        for environment in environments {
            self.spare(&environment).await?;
        }
        Ok(())
    }

    /// A worker that waits for its first line.
    pub(crate) async fn start(&self, environment: &WorkerEnvironment) -> io::Result<(WorkerProcess, Pipes)> {
        if let Some(spare) = self.spare(environment).await? {
            let (pipes, streams) = Pipes::open()?;
            match spare.fork(streams).await {
                Ok(worker) => return Ok((WorkerProcess::Forked(worker), pipes)),
                Err(error) => self.do_without_spare(environment, &error).await,
            }
        }
        let (pipes, streams) = Pipes::open()?;
        let mut command = environment.command(&self.python, "serve");
        streams.give_to(&mut command);
        Ok((WorkerProcess::Child(self.spawner.spawn(command).await?), pipes))
    }

    /// The one for this environment; another one when it is gone.
    async fn spare(&self, environment: &WorkerEnvironment) -> io::Result<Option<Spare>> {
        let Some(spares) = &self.spares else { return Ok(None) };
        let mut spares = spares.lock().await;
        match spares.get(environment) {
            Some(None) => Ok(None),
            Some(Some(spare)) if !spare.is_gone() => Ok(Some(spare.clone())),
            _ => {
                let spare = Spare::start(&self.spawner, &self.python, environment).await?;
                spares.insert(environment.clone(), Some(spare.clone()));
                Ok(Some(spare))
            }
        }
    }

    async fn do_without_spare(&self, environment: &WorkerEnvironment, error: &io::Error) {
        tracing::warn!(%error, "no worker can be forked from the spare process; each imports torch for itself");
        if let Some(spares) = &self.spares {
            spares.lock().await.insert(environment.clone(), None);
        }
    }
}
