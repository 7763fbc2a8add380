//! Where log lines go: standard error, as text or as JSON. No prompt, no key, no generated text is ever logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::args::LogArgs;

/// Installs the subscriber, for panics too; once a process.
pub(crate) fn start(args: &LogArgs) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(&args.log_level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if args.json_output {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_ansi(args.log_colorize.unwrap_or_else(|| std::io::stderr().is_terminal())).init();
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(())
}
