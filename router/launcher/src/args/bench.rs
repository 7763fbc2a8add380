//! Flags of `bench`.

use std::path::PathBuf;

use clap::Args;
use forebay_bench::Goal;

use crate::settings::{parse_positive, parse_share};

/// Flags of `bench`, by the heading under which the help shows them.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,
    #[command(flatten)]
    pub(crate) results: ResultArgs,
}

/// Whom to ask.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArgs {
    /// The server, `http://HOST[:PORT][/PREFIX]`; the API's route is put behind it.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3000")]
    pub(crate) url: String,
    /// The route and its events: OpenAI's chat completions or completions, or TGI's `/generate_stream`.
    #[arg(long, default_value = "chat", value_parser = ["chat", "completions", "tgi"])]
    pub(crate) api: String,
    /// The model's name in requests; the first of `/v1/models` if not given. TGI's API names none.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// A file whose first line is the server's API key. The variable `FOREBAY_BENCH_API_KEY` may hold it instead; no
    /// flag does, for a command line can be read by every user of the machine.
    #[arg(long, env = "FOREBAY_BENCH_API_KEY_FILE", value_name = "PATH")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Seconds that one request may take before it counts as failed.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = parse_positive)]
    pub(crate) timeout: f64,
}

/// How requests come, and how long.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// A closed loop: so many streams, each of which sends its next request when its last has ended. 1 if nothing else
    /// is given. It slows down with the server, so it tells what a server can do, not what its users meet.
    #[arg(long, short, value_name = "N", group = "shape", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) concurrency: Option<u32>,
    /// An open loop: so many requests a second, whatever the server does. Each is due at a time that is fixed
    /// beforehand, and all its latencies count from then: a server, or a generator, that stands still cannot make
    /// requests vanish that would have waited (coordinated omission).
    #[arg(long, short, value_name = "PER_SECOND", group = "shape", value_parser = parse_positive)]
    pub(crate) rate: Option<f64>,
    /// One closed loop after the other, with these numbers of streams.
    #[arg(long, value_name = "N,…", group = "shape", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) sweep_concurrency: Option<Vec<u32>>,
    /// One open loop after the other, with these rates.
    #[arg(long, value_name = "PER_SECOND,…", group = "shape", value_delimiter = ',', value_parser = parse_positive)]
    pub(crate) sweep_rate: Option<Vec<f64>>,
    /// How an open loop's times of arrival vary: as of many people who know nothing of each other, or not at all.
    #[arg(long, default_value = "poisson", value_parser = ["poisson", "constant"])]
    pub(crate) arrivals: String,
    /// Requests of a run.
    #[arg(long, short, value_name = "N", conflicts_with = "duration", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) num_requests: u64,
    /// Seconds that a run sends for, instead of a number of requests. What runs by then is waited for: its latencies
    /// count whole, of its tokens those that came in time.
    #[arg(long, short, value_name = "SECONDS", value_parser = parse_positive)]
    pub(crate) duration: Option<f64>,
    /// Seconds over which the streams of a closed loop start; with `--duration` they lie before it.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = crate::settings::parse_not_negative)]
    pub(crate) ramp_up: f64,
    /// Requests before each run that are not counted. They ask none of its prompts.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) warm_up: u32,
}

/// What is asked.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompts")]
pub(crate) struct PromptArgs {
    /// A file of prompts: JSON lines with `prompt` (a text) or `messages` (a list) and an optional `max_tokens`, or an
    /// array of `conversations`, of which first turns are asked. Taken in its order, again from the beginning when it
    /// ends; without it prompts are random words.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["input_tokens", "shared_prefix"])]
    pub(crate) dataset: Option<PathBuf>,
    /// Words of a generated prompt, about a token each; the counts in the results are the server's.
    #[arg(long, short, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) input_tokens: u32,
    /// The most tokens that an answer may have: 128 if not given, or what the dataset says of a prompt.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) output_tokens: Option<u32>,
    /// The part of each generated prompt, from its beginning, that is the same in all: 0 to 1.
    #[arg(long, value_name = "FRACTION", default_value = "0", value_parser = parse_share)]
    pub(crate) shared_prefix: f64,
    /// Go on after an end token, so that every answer has its full length. Not of OpenAI's API, and not of TGI's.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// How tokens are chosen; 0 is greedy.
    #[arg(long, value_name = "T", default_value = "0", value_parser = crate::settings::parse_not_negative)]
    pub(crate) temperature: f64,
    /// Further fields of every request's body, as a JSON object; they win over the ones that are there.
    #[arg(long, value_name = "JSON", value_parser = crate::settings::parse_object)]
    pub(crate) extra_body: Option<serde_json::Map<String, serde_json::Value>>,
    /// Makes prompts and arrivals; the same seed gives the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
}

/// What is told of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub(crate) struct ResultArgs {
    /// What a good request keeps, `METRIC:MILLISECONDS` with `ttft`, `itl` (every gap), `tpot` or `e2e`, several
    /// separated by commas or repeated. The rate of requests that keep them all is the goodput.
    #[arg(long, value_name = "METRIC:MS", value_delimiter = ',')]
    pub(crate) goodput: Vec<Goal>,
    /// Write the results as JSON too; `docs/reference/bench.md` says what they mean.
    #[arg(long, value_name = "PATH")]
    pub(crate) json: Option<PathBuf>,
    /// Draw throughput against latency, a point a run, as SVG.
    #[arg(long, value_name = "PATH")]
    pub(crate) plot: Option<PathBuf>,
    /// Show no progress on standard error.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
