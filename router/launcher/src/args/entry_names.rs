//! The names under which scripts start TGI's programs, and what they may ask of them. The program looks at the name that it
//! was started by, or at its first argument.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Subcommand};

pub(crate) const LAUNCHER: &str = "text-generation-launcher";
pub(crate) const SERVER: &str = "text-generation-server";
pub(crate) const ROUTER: &str = "text-generation-router";

/// Commands of `text-generation-server`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// As `forebay download`: fetch a model's files into the cache.
    DownloadWeights(Box<DownloadWeightsArgs>),
    /// Refused: `forebay serve` starts the workers, which are no servers of their own.
    Serve(AnyArgs),
    /// Refused: quantizing is not built yet.
    Quantize(AnyArgs),
}

/// Commands of `text-generation-router`. Without one it is refused: the router and the launcher are one program.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RouterArgs {
    #[command(subcommand)]
    pub(crate) command: Option<RouterCommand>,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) rest: Vec<OsString>,
}

/// Commands of `text-generation-router`.
#[derive(Debug, Subcommand)]
pub(crate) enum RouterCommand {
    /// Print the API's document, which the server has at `/openapi.json`, with the limits by default.
    PrintSchema,
}

/// What a refused command takes.
#[derive(Debug, Args)]
pub(crate) struct AnyArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) rest: Vec<OsString>,
}

/// Flags of `download-weights`.
#[derive(Debug, Args)]
pub(crate) struct DownloadWeightsArgs {
    /// A model id on the hub.
    #[arg(value_name = "MODEL_ID", env = "MODEL_ID", required = true)]
    pub(crate) model_id: String,
    /// The branch, tag or commit.
    #[arg(long, env)]
    pub(crate) revision: Option<String>,
    /// Which files: safetensors or GGUF are taken, whichever the model has; without effect.
    #[arg(long, value_name = "SUFFIX")]
    pub(crate) extension: Option<String>,
    /// Convert pickled weights: they are never read here; without effect.
    #[arg(long, overrides_with = "no_auto_convert")]
    pub(crate) auto_convert: bool,
    /// The opposite.
    #[arg(long)]
    pub(crate) no_auto_convert: bool,
    /// What is logged: errors alone here; without effect.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) logger_level: Option<String>,
    /// Logs as JSON: there are none here; without effect.
    #[arg(long, overrides_with = "no_json_output")]
    pub(crate) json_output: bool,
    /// The opposite.
    #[arg(long)]
    pub(crate) no_json_output: bool,
    /// Refused when set: code that comes with a model is never run.
    #[arg(long, env, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new(), overrides_with = "no_trust_remote_code")]
    pub(crate) trust_remote_code: bool,
    /// The opposite.
    #[arg(long)]
    pub(crate) no_trust_remote_code: bool,
    /// Refused when set: adapters are not built yet.
    #[arg(long)]
    pub(crate) merge_lora: bool,
}

/// Makes the name of a program that TGI has the first argument, if this one was started by it.
pub(super) fn put_first(argv: &mut Vec<OsString>) {
    let name = argv.first().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str);
    if let Some(name) = name.filter(|name| [LAUNCHER, SERVER, ROUTER].contains(name)) {
        let name = name.into();
        argv.insert(1, name);
    }
}
