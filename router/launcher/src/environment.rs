//! The build and the machine: `forebay env` prints them with what the workers would run on, `--env` logs them.

use std::path::Path;

use crate::process::Spawner;
use crate::python;
use crate::python_task::PythonTask;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const SHA: Option<&str> = option_env!("FOREBAY_BUILD_SHA");

fn num_cores() -> usize {
    std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
}

/// For `--env`.
pub(crate) fn log() {
    tracing::info!(
        version = VERSION,
        sha = SHA,
        target_os = std::env::consts::OS,
        target_arch = std::env::consts::ARCH,
        cores = num_cores(),
        "runtime environment"
    );
}

/// For `forebay env`: lines of `name: value`. What cannot be found out is said in its place.
pub(crate) async fn describe(spawner: &Spawner, named_python: Option<&Path>) -> String {
    let ours = format!(
        "router: {VERSION}{}\ntarget: {}-{}\ncores: {}\n",
        SHA.map(|sha| format!(" ({sha})")).unwrap_or_default(),
        std::env::consts::ARCH,
        std::env::consts::OS,
        num_cores(),
    );
    let workers = describe_workers(spawner, named_python).await;
    ours + &workers.unwrap_or_else(|reason| format!("python: {reason}\n"))
}

async fn describe_workers(spawner: &Spawner, named_python: Option<&Path>) -> Result<String, String> {
    let search_path = std::env::var_os("PATH");
    let python = python::find(named_python, search_path.as_deref()).map_err(|error| error.to_string())?;
    let task = PythonTask { name: "env", arguments: Vec::new(), hub_cache: None };
    let answer = task.run(spawner, &python).await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
