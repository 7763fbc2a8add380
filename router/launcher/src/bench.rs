//! `forebay bench`: its flags made into values, run, and told.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_bench::{Api, Arrivals, BenchError, Load, Progress, Prompts, Report, Settings, Stop, Target};

use crate::args::bench::{BenchArgs, LoadArgs, PromptArgs};
use crate::secret::Secret;
use crate::settings::{SettingsError, read_api_keys};

/// Why there is no result, or none that counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchCommandError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error("cannot write `{}`: {error}", path.display())]
    Write { path: PathBuf, error: std::io::Error },
    #[error("`{num_failed}` requests failed; the figures are of the others")]
    Failed { num_failed: u64 },
}

impl BenchCommandError {
    /// Whether the command line, or a file that it names, is at fault.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Settings(_) => true,
            Self::Bench(error) => error.is_refusal(),
            Self::Write { .. } | Self::Failed { .. } => false,
        }
    }
}

/// Runs what the flags say. `api_key` is the variable that may hold one. The table goes to standard output, progress
/// to standard error.
pub(crate) fn bench(args: &BenchArgs, api_key: Option<Secret>) -> Result<(), BenchCommandError> {
    crate::http::raise_file_limit(0);
    let settings = settings(args, api_key)?;
    let report = forebay_bench::run(&settings, (!args.results.quiet).then(progress))?;
    let stdout = Path::new("standard output");
    write(stdout, std::io::stdout().write_all(forebay_bench::render(&report).as_bytes()))?;
    if let Some(path) = &args.results.json {
        write(path, std::fs::write(path, to_json(&report)))?;
    }
    if let Some(path) = &args.results.plot {
        write(path, std::fs::write(path, forebay_bench::svg(&report)))?;
    }
    match report.num_failed() {
        0 => Ok(()),
        num_failed => Err(BenchCommandError::Failed { num_failed }),
    }
}

fn to_json(report: &Report) -> String {
    let pretty = serde_json::to_string_pretty(report);
    // Numbers, strings and lists of them: there is nothing that JSON cannot say.
    pretty.unwrap_or_default() + "\n"
}

fn write(path: &Path, written: std::io::Result<()>) -> Result<(), BenchCommandError> {
    written.map_err(|error| BenchCommandError::Write { path: path.to_owned(), error })
}

fn progress() -> Progress {
    Progress { out: Box::new(std::io::stderr()), is_terminal: std::io::stderr().is_terminal() }
}

fn settings(args: &BenchArgs, api_key: Option<Secret>) -> Result<Settings, SettingsError> {
    let api_key = match &args.server.api_key_file {
        Some(path) => read_api_keys(path)?.into_iter().next(),
        None => api_key,
    };
    Ok(Settings {
        target: Target {
            url: args.server.url.clone(),
            api: match args.server.api.as_str() {
                "completions" => Api::Completions,
                "tgi" => Api::Tgi,
                _ => Api::Chat,
            },
            model: args.server.model.clone(),
            api_key: api_key.map(|key| key.reveal().to_owned()),
            temperature: args.prompts.temperature,
            ignore_eos: args.prompts.ignore_eos,
            extra: args.prompts.extra_body.clone().unwrap_or_default(),
        },
        loads: loads(&args.load),
        stop: match args.load.duration {
            Some(seconds) => Stop::Duration(Duration::from_secs_f64(seconds)),
            None => Stop::Requests(args.load.num_requests),
        },
        num_warm_up: args.load.warm_up,
        prompts: prompts(&args.prompts),
        seed: args.prompts.seed,
        goals: args.results.goodput.clone(),
        timeout: Duration::from_secs_f64(args.server.timeout),
    })
}

fn loads(args: &LoadArgs) -> Vec<Load> {
    let ramp_up = Duration::from_secs_f64(args.ramp_up);
    let closed = |&concurrency: &u32| Load::Closed { concurrency, ramp_up };
    let arrivals = if args.arrivals == "constant" { Arrivals::Constant } else { Arrivals::Poisson };
    let open = |&rate: &f64| Load::Open { rate, arrivals };
    match (&args.sweep_concurrency, &args.sweep_rate, args.rate) {
        (Some(numbers), ..) => numbers.iter().map(closed).collect(),
        (_, Some(rates), _) => rates.iter().map(open).collect(),
        (_, _, Some(rate)) => vec![open(&rate)],
        _ => vec![closed(&args.concurrency.unwrap_or(1))],
    }
}

/// What a dataset's entries say counts unless a number is given.
fn prompts(args: &PromptArgs) -> Prompts {
    match &args.dataset {
        Some(path) => Prompts::File { path: path.clone(), output_tokens: args.output_tokens },
        None => Prompts::Generated {
            input_words: args.input_tokens,
            output_tokens: args.output_tokens.unwrap_or(forebay_bench::DEFAULT_OUTPUT_TOKENS),
            shared_prefix: args.shared_prefix,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    fn from_words(words: &[&str]) -> Settings {
        let argv = ["forebay", "bench"].iter().chain(words).map(Into::into).collect();
        match parse(argv, &|_| None).unwrap().command {
            Command::Bench(args) => settings(&args, None).unwrap(),
            other => panic!("expected bench, got {other:?}"),
        }
    }

    #[test]
    fn without_flags_one_stream_sends_a_hundred_requests() {
        let settings = from_words(&[]);
        assert_eq!(settings.loads, [Load::Closed { concurrency: 1, ramp_up: Duration::ZERO }]);
        assert_eq!(settings.stop, Stop::Requests(100));
        assert_eq!(settings.prompts, Prompts::Generated { input_words: 256, output_tokens: 128, shared_prefix: 0.0 });
    }

    #[test]
    fn a_sweep_is_a_run_for_each_value() {
        let open = |rate| Load::Open { rate, arrivals: Arrivals::Constant };
        assert_eq!(from_words(&["--sweep-rate", "1,2.5", "--arrivals", "constant"]).loads, [open(1.0), open(2.5)]);
        let closed = |concurrency| Load::Closed { concurrency, ramp_up: Duration::from_secs(2) };
        assert_eq!(from_words(&["--sweep-concurrency", "1,8", "--ramp-up", "2"]).loads, [closed(1), closed(8)]);
    }

    #[test]
    fn a_key_comes_from_a_file_and_never_from_the_command_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let settings = from_words(&["--api-key-file", file.path().to_str().unwrap()]);
        assert_eq!(settings.target.api_key.as_deref(), Some("secret"));
        assert!(parse(["forebay", "bench", "--api-key", "x"].iter().map(Into::into).collect(), &|_| None).is_err());
    }
}
