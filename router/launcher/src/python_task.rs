//! A short-lived Python child: `python -m forebay_worker download|model-info|env`, run to its end for what it writes.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::process::{Spawner, child_command, describe_exit};
use crate::relay::{LastLines, relay};

/// What of the package is to be run, and with what.
#[derive(Debug)]
pub(crate) struct PythonTask<'a> {
    pub(crate) name: &'static str,
    pub(crate) arguments: Vec<OsString>,
    /// `HF_HUB_CACHE`, if the operator says where it lies.
    pub(crate) hub_cache: Option<&'a Path>,
}

/// Why a task gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    /// The child could not be run.
    #[error("`{python}` could not be run: {error}")]
    Spawn {
        /// Which Python.
        python: String,
        /// Why.
        error: io::Error,
    },
    /// It did not end well.
    #[error("`{python} -m forebay_worker {name}` {outcome}: {reason}")]
    Failed {
        /// Which Python.
        python: String,
        /// Which task.
        name: &'static str,
        /// Its exit code, if it was not killed.
        code: Option<i32>,
        /// "exited with code 1".
        outcome: String,
        /// Its last words.
        reason: String,
    },
}

impl PythonTask<'_> {
    /// Runs it; the answer is what it wrote to standard output.
    pub(crate) async fn run(self, spawner: &Spawner, python: &Path) -> Result<Vec<u8>, TaskError> {
        let mut command = child_command(python);
        command.args(["-m", "forebay_worker", self.name]).args(self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(folder) = self.hub_cache {
            command.env("HF_HUB_CACHE", folder);
        }
        let (python, name) = (python.display().to_string(), self.name);
        let last_lines = LastLines::default();
        match output_of(spawner, command, name, &last_lines).await {
            Ok(output) if output.status.success() => Ok(output.stdout),
            Ok(output) => {
                let code = output.status.code();
                let reason = last_lines.last().unwrap_or_else(|| "the lines above say why".to_owned());
                Err(TaskError::Failed { python, name, code, outcome: describe_exit(Ok(output.status)), reason })
            }
            Err(error) => Err(TaskError::Spawn { python, error }),
        }
    }
}

/// A terminal shows the child's progress bars as they are; elsewhere its lines go into the log.
async fn output_of(spawner: &Spawner, mut command: Command, name: &str, last_lines: &LastLines) -> io::Result<Output> {
    let shows_bars = io::stderr().is_terminal();
    command.stderr(if shows_bars { Stdio::inherit() } else { Stdio::piped() });
    let mut child = spawner.spawn(command).await?;
    let lines = child.stderr.take().map(|pipe| tokio::spawn(relay(pipe, name.to_owned(), last_lines.clone())));
    let output = child.wait_with_output().await?;
    if let Some(lines) = lines {
        // The relay cannot fail, and it ends with the pipe.
        let _ = lines.await;
    }
    Ok(output)
}
