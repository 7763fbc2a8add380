//! Every flag, once: the doc comment is the help text and the line in `docs/reference/cli.md`.
//!
//! Flags that Text Generation Inference has keep its names, defaults and environment variables (the name in
//! upper case); flags of our own have variables that begin with `FOREBAY_`. What a flag means is decided in
//! `settings.rs`; which are refused or without effect, in `compatibility.rs`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::secret::Secret;
use crate::variables::{self, Lookup};

pub(crate) mod bench;
pub(crate) mod entry_names;

/// An inference server for language models.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// `serve` is meant when the first argument is a flag or absent.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a model over HTTP (the default when the first argument is a flag or absent).
    #[command(alias = entry_names::LAUNCHER)]
    Serve(Box<ServeArgs>),
    /// Fetch a model's files into the cache and print where they lie.
    Download(DownloadArgs),
    /// Put load on a server that streams OpenAI's or TGI's events, this one or another, and tell how it bears it.
    Bench(Box<bench::BenchArgs>),
    /// Print the build, the machine and what the workers would run on, for a report.
    Env(EnvArgs),
    /// What TGI's `text-generation-server` is asked for, also under this name of the program.
    #[command(name = entry_names::SERVER, subcommand_required = true, arg_required_else_help = true)]
    TgiServer {
        /// What to do.
        #[command(subcommand)]
        command: entry_names::ServerCommand,
    },
    /// What TGI's `text-generation-router` is asked for, also under this name of the program.
    #[command(name = entry_names::ROUTER)]
    TgiRouter(entry_names::RouterArgs),
    /// Become another program that dies with its parent; how the server starts its children.
    #[command(name = crate::process::EXEC_CHILD, hide = true)]
    ExecChild(ExecChildArgs),
}

/// Flags of `serve`, by the heading under which the help shows them.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) workers: WorkerArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) watermark: WatermarkArgs,
    #[command(flatten)]
    pub(crate) http: HttpArgs,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
    #[command(flatten)]
    pub(crate) moot: MootArgs,
    #[command(flatten)]
    pub(crate) unbuilt: UnbuiltArgs,
}

/// Which model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// The model, as `--model-id` names it.
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// A model id on the Hugging Face hub, a folder with `config.json` and safetensors, or a `.gguf` file; of a GGUF
    /// model in several parts the first, `NAME-00001-of-0000N.gguf`. Without it the bundled SmolLM2-135M-Instruct is
    /// served.
    #[arg(long, env)]
    pub(crate) model_id: Option<String>,
    /// The branch, tag or commit of a model on the hub.
    #[arg(long, env)]
    pub(crate) revision: Option<String>,
    /// A `tokenizer_config.json` to use instead of the model's own; its chat template too.
    #[arg(long, env, value_name = "PATH")]
    pub(crate) tokenizer_config_path: Option<PathBuf>,
    /// Where hub downloads are kept; the hub library's own default otherwise.
    #[arg(long, env, value_name = "DIR")]
    pub(crate) huggingface_hub_cache: Option<PathBuf>,
    /// Where downloads are kept, instead of the hub cache.
    #[arg(long, env, value_name = "DIR")]
    pub(crate) weights_cache_override: Option<PathBuf>,
}

/// The Python processes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Workers")]
pub(crate) struct WorkerArgs {
    /// Whether to shard the model. `true` without `--num-shard` takes every GPU that `CUDA_VISIBLE_DEVICES`, or else
    /// `NVIDIA_VISIBLE_DEVICES`, names.
    #[arg(long, env, value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub(crate) sharded: Option<bool>,
    /// Processes that share the model by tensor parallelism. 1 if not given.
    #[arg(long, env, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) num_shard: Option<u32>,
    /// Copies of the model, each with workers, a KV cache and a schedule of its own; a request goes to the one that
    /// holds the longest part of its prompt, then to the least busy. They share the cores and the memory.
    #[arg(long, env = "FOREBAY_REPLICAS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) replicas: u32,
    /// Type of the activations (and of weights that are not quantized). The checkpoint's own if not given; for a
    /// GGUF file float32 on CPU, on a GPU bfloat16 (float16 before Ampere).
    #[arg(long, env, value_parser = ["float16", "bfloat16", "float32"])]
    pub(crate) dtype: Option<String>,
    /// Type of the KV cache; float16 beside quantized weights on CPU, else `--dtype`, if not given. The fp8 types are
    /// not built yet and refused.
    #[arg(long, env, value_parser = ["float16", "bfloat16", "float32", "fp8_e4m3fn", "fp8_e5m2"])]
    pub(crate) kv_cache_dtype: Option<String>,
    /// Where the model runs. `auto` takes GPUs, one a shard, where torch sees some that it can use, else the CPU; the
    /// log says which and why.
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "auto", value_parser = ["auto", "cpu", "cuda"])]
    pub(crate) device: String,
    /// The part of each GPU's memory that this server may use, for weights, steps and KV cache.
    #[arg(long, env, value_name = "FRACTION", default_value = "1.0", value_parser = crate::settings::parse_fraction)]
    pub(crate) cuda_memory_fraction: f64,
    /// Compute with torch's operators alone, on CPU too; quantized weights are unpacked when they are loaded.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub(crate) disable_custom_kernels: bool,
    /// The attention backend: `paged` is the CPU kernel, `batched` is made of torch's operators and runs everywhere,
    /// `sdpa` is their reference, row by row. `auto` takes `paged` where it can.
    #[arg(long, env = "FOREBAY_ATTENTION", default_value = "auto", value_parser = ["auto", "paged", "batched", "sdpa"])]
    pub(crate) attention: String,
    /// Compute every answer to the bit alike, ids and log-probabilities, whatever else the server does: other requests,
    /// chunks, prefix hits, preemptions, restarts; with the same build, instruction set, dtype and number of shards. On
    /// CPU, by this server's own kernels; what cannot promise it is refused. See `docs/reference/determinism.md`.
    #[arg(long, env = "FOREBAY_DETERMINISTIC", value_parser = BoolishValueParser::new())]
    pub(crate) deterministic: bool,
    /// The Python that has the package `forebay_worker`. Looked for beside this program and then on PATH if not given.
    #[arg(long, env = "FOREBAY_PYTHON", value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
    /// Threads of each worker; the cores available divided by the shards of all replicas if not given.
    #[arg(long, env = "FOREBAY_NUM_THREADS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) num_threads: Option<u32>,
    /// Start every worker as a Python of its own. Otherwise workers are forked from a spare process that has imported
    /// torch and holds no weights: a restart takes a third of the time then, at the cost of some 30 MiB; workers beyond
    /// the first share its memory, some 290 MiB each.
    #[arg(long, env = "FOREBAY_DISABLE_SPARE_WORKER", value_parser = BoolishValueParser::new())]
    pub(crate) disable_spare_worker: bool,
    /// Seconds that a model may take to load.
    #[arg(long, env = "FOREBAY_START_TIMEOUT", value_name = "SECONDS", default_value_t = 600)]
    pub(crate) start_timeout: u64,
    /// Seconds that lost workers are restarted for before they are given up; requests wait meanwhile and go on after.
    /// When they are given up, their requests go on with another replica, if one is left.
    #[arg(long, env = "FOREBAY_RESTART_TIMEOUT", value_name = "SECONDS", default_value_t = 300)]
    pub(crate) restart_timeout: u64,
    /// Seconds that one step may take before the workers count as hung.
    #[arg(long, env = "FOREBAY_STEP_TIMEOUT", value_name = "SECONDS", default_value_t = 60)]
    pub(crate) step_timeout: u64,
    /// Seconds from one heartbeat of each worker to the next, and that its answer may take. A busy machine can keep an
    /// answer waiting for a second or two.
    #[arg(long, env = "FOREBAY_HEARTBEAT_INTERVAL", value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) heartbeat_interval: u64,
    /// Heartbeats that a worker may leave unanswered in a row before its group counts as hung, idle or in a step.
    #[arg(long, env = "FOREBAY_MAX_MISSED_HEARTBEATS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_missed_heartbeats: u32,
}

/// What clients may ask for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Requests that may wait or run at once; further ones are answered 429.
    #[arg(long, env, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_concurrent_requests: u32,
    /// Prompt tokens that may wait in each replica; further requests are answered 429.
    #[arg(long, env = "FOREBAY_MAX_QUEUED_TOKENS", value_name = "N", default_value_t = 4_194_304)]
    pub(crate) max_queued_tokens: u64,
    /// Largest `best_of` of a request on TGI's routes; on `/v1` it is bounded as `n` is.
    #[arg(long, env, value_name = "N", default_value_t = 2)]
    pub(crate) max_best_of: u32,
    /// Stop strings that a request may give.
    #[arg(long, env, value_name = "N", default_value_t = 4)]
    pub(crate) max_stop_sequences: u32,
    /// Alternatives a token for which a request may ask (`top_n_tokens`).
    #[arg(long, env, value_name = "N", default_value_t = 5)]
    pub(crate) max_top_n_tokens: u32,
    /// Longest prompt in tokens; `--max-total-tokens` less one if not given.
    #[arg(long, env, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_input_tokens: Option<u32>,
    /// The older name of `--max-input-tokens`; giving both is an error.
    #[arg(long, env, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_input_length: Option<u32>,
    /// Longest sequence in tokens, prompt and answer. What the model and the KV cache allow if not given, and never
    /// more than that.
    #[arg(long, env, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) max_total_tokens: Option<u32>,
    /// Prompts in one `/v1/completions` request.
    #[arg(long, env, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_client_batch_size: u32,
    /// Largest request body in bytes.
    #[arg(long, env, value_name = "BYTES", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) payload_limit: u64,
    /// Threads that tokenize prompts.
    #[arg(long, env, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) validation_workers: u32,
}

/// How steps are made up and where KV lies.
#[derive(Debug, Args)]
#[command(next_help_heading = "Schedule and KV cache")]
pub(crate) struct ScheduleArgs {
    /// Tokens that one step may compute; longer prompts are computed in chunks.
    #[arg(long, env, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_batch_prefill_tokens: Option<u32>,
    /// Sequences that may run at once.
    #[arg(long, env, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_batch_size: Option<u32>,
    /// Steps sent ahead of the one whose result is awaited.
    #[arg(long, env = "FOREBAY_RUN_AHEAD", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=3))]
    pub(crate) run_ahead: u32,
    /// Tokens of requests that have ended whose KV stays cached, for prompts that begin alike; what the KV cache has
    /// room for if not given. Memory of the cache is taken as it is used: a bound here keeps it low.
    #[arg(long, env = "FOREBAY_PREFIX_CACHE_TOKENS", value_name = "N")]
    pub(crate) prefix_cache_tokens: Option<u32>,
    /// Whether prompts reuse what was computed for equal beginnings, and leave theirs for others.
    #[arg(long, env, value_name = "BOOL", default_value = "true", action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub(crate) prefix_caching: bool,
    /// Milliseconds between two tokens of a stream that prompts of others may cause: beside streams, prompts are computed
    /// in chunks so small that a step takes no longer, by what steps have been seen to take. If not given, 2.5 times what
    /// the streams alone take, and more where more prompts wait than streams run, in proportion; 0 sets no bound, for
    /// the shortest time to first token.
    #[arg(long, env = "FOREBAY_TARGET_INTER_TOKEN_MS", value_name = "MILLISECONDS")]
    pub(crate) target_inter_token_ms: Option<u32>,
    /// Tokens a block of KV cache.
    #[arg(long, env = "FOREBAY_BLOCK_SIZE", value_name = "TOKENS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) block_size: u32,
    /// Bytes of KV cache of each shard, as `1073741824` or `1GiB`. If not given, on CPU 40% of the memory available,
    /// divided among all, or room for 32 sequences of full length, whichever is less; on a GPU 90% of what weights and
    /// the largest step leave.
    #[arg(long, env = "FOREBAY_KV_CACHE_BYTES", value_name = "BYTES", value_parser = crate::settings::parse_bytes, conflicts_with = "kv_cache_tokens")]
    pub(crate) kv_cache_bytes: Option<u64>,
    /// Size of the KV cache of each replica in tokens, instead of bytes.
    #[arg(long, env = "FOREBAY_KV_CACHE_TOKENS", value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) kv_cache_tokens: Option<u64>,
}

/// How strong the watermarks of requests that ask for one are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Watermark")]
pub(crate) struct WatermarkArgs {
    /// The part of all tokens that the last one makes likelier.
    #[arg(long, env, value_name = "FRACTION", default_value_t = 0.5, value_parser = crate::settings::parse_gamma)]
    pub(crate) watermark_gamma: f32,
    /// What is added to their logits.
    #[arg(long, env, value_name = "LOGIT", default_value_t = 2.0, allow_negative_numbers = true, value_parser = crate::settings::parse_finite)]
    pub(crate) watermark_delta: f32,
}

/// The listener.
#[derive(Debug, Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpArgs {
    /// The address to listen on. The variable counts only when it holds an address: container runtimes set it to
    /// the container's name.
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub(crate) hostname: IpAddr,
    /// The port to listen on; 0 takes a free one.
    #[arg(long, short, env, default_value_t = 3000)]
    pub(crate) port: u16,
    /// An origin that browsers may call from, several separated by commas; any if not given.
    #[arg(long, env, value_name = "ORIGINS", value_delimiter = ',')]
    pub(crate) cors_allow_origin: Option<Vec<String>>,
    /// The key that clients must send as `Authorization: Bearer KEY`. Prefer the variable or `--api-key-file`: a
    /// command line can be read by every user of the machine.
    #[arg(long, env, value_name = "KEY", hide_env_values = true, conflicts_with = "api_key_file")]
    pub(crate) api_key: Option<Secret>,
    /// A file that holds the key, or several, one a line. When it changes, the new keys count within seconds; a file
    /// that cannot be read or holds none changes nothing.
    #[arg(long, env = "FOREBAY_API_KEY_FILE", value_name = "PATH")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Where Vertex AI asks for predictions, beside `/vertex`.
    #[arg(long, env = "AIP_PREDICT_ROUTE", value_name = "PATH")]
    pub(crate) vertex_predict_route: Option<String>,
    /// Where Vertex AI asks for health, beside `/health`.
    #[arg(long, env = "AIP_HEALTH_ROUTE", value_name = "PATH")]
    pub(crate) vertex_health_route: Option<String>,
    /// What the header `x-compute-type` tells; the number of shards and the device, as `1-cpu`, if not given.
    #[arg(long, env, value_name = "NAME")]
    pub(crate) compute_type: Option<String>,
    /// Connections open at once; further ones wait to be accepted.
    #[arg(long, env = "FOREBAY_MAX_CONNECTIONS", value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_connections: u32,
    /// Seconds that running requests have to finish after SIGTERM or SIGINT; a second signal ends them at once.
    #[arg(long, short = 'g', env, value_name = "SECONDS", default_value_t = 90)]
    pub(crate) graceful_termination_timeout: u64,
}

/// What is written where.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logs")]
pub(crate) struct LogArgs {
    /// Write logs as JSON lines. Logs go to standard error.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub(crate) json_output: bool,
    /// Whether logs that are no JSON have colours; on a terminal if not given.
    #[arg(long, env, value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub(crate) log_colorize: Option<bool>,
    /// What is logged: a level, or levels by module as in `info,forebay_scheduler=debug`.
    #[arg(long, env, value_name = "LEVELS", default_value = "info")]
    pub(crate) log_level: String,
    /// Log the machine and the build at the start.
    #[arg(long, short = 'e', env, value_parser = BoolishValueParser::new())]
    pub(crate) env: bool,
}

/// Settings of TGI whose purpose is met without them. Accepted; the start of the log says why each does nothing.
#[derive(Debug, Args)]
#[command(next_help_heading = "Accepted for compatibility, without effect")]
pub(crate) struct MootArgs {
    /// When waiting requests may join: at every step here.
    #[arg(long, env, value_name = "RATIO")]
    pub(crate) waiting_served_ratio: Option<f32>,
    /// When waiting requests may join: at every step here.
    #[arg(long, env, value_name = "N")]
    pub(crate) max_waiting_tokens: Option<u64>,
    /// Tokens in a batch: bounded by the KV cache here (`--kv-cache-bytes`, `--kv-cache-tokens`).
    #[arg(long, env, value_name = "N")]
    pub(crate) max_batch_total_tokens: Option<u64>,
    /// Batch sizes to capture: steps run without CUDA graphs here.
    #[arg(long, env, value_name = "SIZES", value_delimiter = ',')]
    pub(crate) cuda_graphs: Option<Vec<u32>>,
    /// The sockets' folder: made anew for every run here, readable by its owner alone.
    #[arg(long, env, value_name = "PATH")]
    pub(crate) shard_uds_path: Option<PathBuf>,
    /// Where shards meet: in a file of the run's own folder here.
    #[arg(long, env, value_name = "ADDRESS")]
    pub(crate) master_addr: Option<String>,
    /// Where shards meet: in a file of the run's own folder here.
    #[arg(long, env, value_name = "PORT")]
    pub(crate) master_port: Option<u16>,
    /// A port for metrics: they are at `/metrics` of the main port.
    #[arg(long, env, value_name = "PORT")]
    pub(crate) prometheus_port: Option<u16>,
    /// Log-probabilities of prompts: always available here.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub(crate) enable_prefill_logprobs: bool,
    /// Switches grammars off: they are not built yet here.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub(crate) disable_grammar_support: bool,
    /// Largest image to fetch: models with images are not built yet here, so nothing is ever fetched.
    #[arg(long, env, value_name = "BYTES")]
    pub(crate) max_image_fetch_size: Option<u64>,
    /// Usage statistics: none are ever sent from here.
    #[arg(long, env, value_parser = ["on", "no-stack", "off"])]
    pub(crate) usage_stats: Option<String>,
}

/// Settings of TGI whose feature does not exist here (yet). Setting one is an error that names it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Not built yet: refused when set")]
pub(crate) struct UnbuiltArgs {
    /// Quantize while loading. Files that are quantized already need no flag.
    #[arg(long, env, value_name = "METHOD")]
    pub(crate) quantize: Option<String>,
    /// Speculative decoding.
    #[arg(long, env, value_name = "N")]
    pub(crate) speculate: Option<usize>,
    /// Run code that comes with a model.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub(crate) trust_remote_code: bool,
    /// Stretch rotary embeddings.
    #[arg(long, env, value_name = "KIND")]
    pub(crate) rope_scaling: Option<String>,
    /// Stretch rotary embeddings by this factor.
    #[arg(long, env, value_name = "FACTOR")]
    pub(crate) rope_factor: Option<f32>,
    /// `LoRA` adapters to load.
    #[arg(long, env, value_name = "ADAPTERS")]
    pub(crate) lora_adapters: Option<String>,
    /// Traces by OpenTelemetry.
    #[arg(long, env, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    /// The service's name in traces.
    #[arg(long, env, value_name = "NAME")]
    pub(crate) otlp_service_name: Option<String>,
    /// A public address through ngrok.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub(crate) ngrok: bool,
    /// The token for ngrok.
    #[arg(long, env, value_name = "TOKEN", hide_env_values = true)]
    pub(crate) ngrok_authtoken: Option<Secret>,
    /// The edge for ngrok.
    #[arg(long, env, value_name = "EDGE")]
    pub(crate) ngrok_edge: Option<String>,
}

/// Flags of `download`.
#[derive(Debug, Args)]
pub(crate) struct DownloadArgs {
    /// A model id on the hub; the bundled default if not given.
    #[arg(env = "MODEL_ID", value_name = "MODEL")]
    pub(crate) model_id: Option<String>,
    /// The branch, tag or commit.
    #[arg(long, env)]
    pub(crate) revision: Option<String>,
    /// Where hub downloads are kept; the hub library's own default otherwise.
    #[arg(long, env, value_name = "DIR")]
    pub(crate) huggingface_hub_cache: Option<PathBuf>,
    /// Where downloads are kept, instead of the hub cache.
    #[arg(long, env, value_name = "DIR")]
    pub(crate) weights_cache_override: Option<PathBuf>,
    /// The Python that has the package `forebay_worker`. Looked for beside this program and then on PATH if not given.
    #[arg(long, env = "FOREBAY_PYTHON", value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
}

/// Flags of `env`.
#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    /// The Python that has the package `forebay_worker`. Looked for beside this program and then on PATH if not given.
    #[arg(long, env = "FOREBAY_PYTHON", value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
}

/// Arguments of the hidden command.
#[derive(Debug, Args)]
pub(crate) struct ExecChildArgs {
    /// Who must still be the parent.
    #[arg(long)]
    pub(crate) parent: i32,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// Parses a command line whose first word is the program's name.
pub(crate) fn parse(mut argv: Vec<OsString>, lookup: Lookup<'_>) -> Result<Cli, clap::Error> {
    entry_names::put_first(&mut argv);
    let word = |at: usize| argv.get(at).and_then(|word| word.to_str());
    if means_serve(word(1)) {
        argv.insert(1.min(argv.len()), "serve".into());
    } else if word(1) == Some("serve") && word(2) == Some("serve") {
        // SageMaker starts an image with this word, whatever command the image has. No model is meant.
        argv.remove(2);
    }
    let matches = command(lookup).try_get_matches_from(argv)?;
    Cli::from_arg_matches(&matches)
}

/// TGI's launcher has no subcommands: a command line that begins with a flag of `serve` is one of its.
fn means_serve(first: Option<&str>) -> bool {
    first.is_none_or(|word| word.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&word))
}

/// The whole command line, with the variables that count here.
pub(crate) fn command(lookup: Lookup<'_>) -> clap::Command {
    variables::bind(Cli::command(), lookup)
}

#[cfg(test)]
mod tests;
