//! The forebay binary: arguments, workers, engine, HTTP, shutdown. The composition root: the only crate that knows
//! all others, and the only one that reads the environment.
//!
//! Exit codes: 0 after a signal or when done, 2 when the command line or the model is refused, 1 for everything else.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod compatibility;
mod cores;
mod entry_names;
mod environment;
mod http;
mod key_file;
mod logging;
mod model_source;
mod process;
mod python;
mod python_task;
mod relay;
mod run_folder;
mod secret;
mod serve;
mod settings;
mod shutdown;
mod spare;
mod variables;
mod worker_process;
mod worker_spawner;
mod workers;

#[cfg(test)]
mod cli_reference;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use args::bench::BenchArgs;
use args::{Command, DownloadArgs, EnvArgs, ServeArgs};
use model_source::ModelSource;
use process::Spawner;
use serve::ServeError;
use settings::Settings;
use variables::Surroundings;

/// The command line or the model is refused.
const REFUSED: u8 = 2;
/// Anything else went wrong.
const FAILED: u8 = 1;
/// Holds the key of the server that `bench` asks.
const BENCH_API_KEY: &str = "FOREBAY_BENCH_API_KEY";
/// How long threads that are still busy, with a tokenizer say, may hold up the end.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_millis(500);

/// The one place that reads the environment.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os().collect(), &variable) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version count as errors of exit code 0. Nobody is left to tell if the terminal is gone.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    match cli.command {
        Command::Serve(args) => serve_command(&args),
        Command::Download(args) => download_command(args),
        Command::Bench(args) => bench_command(&args),
        Command::Env(args) => env_command(&args),
        Command::TgiServer { command } => match entry_names::server(command) {
            Ok(args) => download_command(args),
            Err(refused) => fail(REFUSED, &refused.to_string()),
        },
        Command::TgiRouter(args) => match entry_names::router(&args) {
            Ok(schema) => print(Ok(schema.into_bytes())),
            Err(refused) => fail(REFUSED, &refused.to_string()),
        },
        Command::ExecChild(args) => fail(FAILED, &process::exec_child(&args)),
    }
}

fn serve_command(args: &ServeArgs) -> ExitCode {
    if let Err(error) = logging::start(&args.logs) {
        return fail(REFUSED, &format!("`--log-level` is `{}`: {error}", args.logs.log_level));
    }
    let settings = match Settings::from_args(args, Surroundings::read(&variable)) {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(REFUSED);
        }
    };
    if args.logs.env {
        environment::log();
    }
    for remark in &settings.without_effect {
        tracing::warn!("`{}` has no effect: {}", remark.flag, remark.why);
    }
    match in_runtime(serve::serve(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn download_command(args: DownloadArgs) -> ExitCode {
    let downloaded = in_runtime(async {
        let spawner = Spawner::start().map_err(|error| ServeError::System { what: "cannot start a thread", error })?;
        let python = python::find(args.python.as_deref(), variable("PATH").as_deref())?;
        Ok(ModelSource::from(args).download(&spawner, &python).await?)
    });
    print(downloaded)
}

fn env_command(args: &EnvArgs) -> ExitCode {
    print(in_runtime(async {
        let spawner = Spawner::start().map_err(|error| ServeError::System { what: "cannot start a thread", error })?;
        Ok(environment::describe(&spawner, args.python.as_deref()).await.into_bytes())
    }))
}

/// Failed requests are an end of their own: the figures stand, but a script must not take them for whole.
fn bench_command(args: &BenchArgs) -> ExitCode {
    let api_key = variable(BENCH_API_KEY).and_then(|key| key.to_str()?.parse().ok());
    match bench::bench(args, api_key) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(if error.is_refusal() { REFUSED } else { FAILED }, &error.to_string()),
    }
}

/// Writes a command's answer, or says why there is none.
fn print(answer: Result<Vec<u8>, ServeError>) -> ExitCode {
    match answer {
        Ok(answer) => match std::io::stdout().write_all(&answer) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(FAILED, &format!("cannot write to standard output: {error}")),
        },
        Err(error) => fail(exit_code(&error), &error.to_string()),
    }
}

fn exit_code(error: &ServeError) -> u8 {
    if error.is_refusal() { REFUSED } else { FAILED }
}

/// Says why on standard error, where there is no log.
fn fail(code: u8, message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(code)
}

fn in_runtime<T>(work: impl Future<Output = Result<T, ServeError>>) -> Result<T, ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| ServeError::System { what: "cannot start threads", error })?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(RUNTIME_END_TIMEOUT);
    result
}
