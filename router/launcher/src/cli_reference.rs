//! `docs/reference/cli.md`, made from the declarations in `args.rs`; a test fails when the file is stale.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command};

use crate::variables::{OTHER_NAMES, WITHOUT_EFFECT};

const HEAD: &str = "# Command line

Generated from `router/launcher/src/args.rs`; `UPDATE_CLI_REFERENCE=1 cargo test -p forebay cli_reference` writes it
anew. A flag wins over its environment variable. A command line that begins with a flag, or is empty, means `serve`; so
does the name `text-generation-launcher`, which is installed beside `forebay`, as are `text-generation-server` and
`text-generation-router`.

Logs and errors go to standard error. Exit codes: 0 after SIGTERM or SIGINT (what runs may finish first), 2 when the
command line or the model is refused, 1 for everything else. While the server runs, a second signal ends it at once.
";

fn reference() -> String {
    let mut text = HEAD.to_owned();
    let mut command = crate::args::command(&|_| None);
    command.build();
    write_commands(&mut text, "forebay", &command);
    write_variables(&mut text);
    text
}

fn write_commands(text: &mut String, name: &str, command: &Command) {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        let name = format!("{name} {}", inner.get_name());
        write_command(text, &name, inner);
        write_commands(text, &name, inner);
    }
}

fn write_variables(text: &mut String) {
    let without_effect: Vec<String> = WITHOUT_EFFECT.iter().map(|(name, _)| format!("`{name}`")).collect();
    let without_effect = without_effect.join(", ");
    writeln!(text, "\n## Other variables\n\n| variable | is read as | where this is not set |\n|---|---|---|").unwrap();
    for (flag, own, other) in OTHER_NAMES {
        writeln!(text, "| `{other}` | `--{}` | `{own}` |", flag.replace('_', "-")).unwrap();
    }
    writeln!(text, "| `AIP_HTTP_PORT` | `--port` | |").unwrap();
    writeln!(
        text,
        "\nThe first are SageMaker's: where `HF_MODEL_ID` names the model, the port is 8080 unless `--port` says \
         otherwise. The last is\nVertex AI's. Workers see every variable but those of keys; the hub's library reads \
         its own (`HF_TOKEN`, `HF_HOME`,\n`HF_HUB_OFFLINE`, …).\n\nVariables of Text Generation Inference that do \
         nothing here, which the log says if they are set:\n{without_effect}."
    )
    .unwrap();
}

fn write_command(text: &mut String, name: &str, command: &Command) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    writeln!(text, "\n## `{name}`\n\n{about}.").unwrap();
    let mut heading = None;
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_id() != "help") {
        if heading != Some(arg.get_help_heading()) {
            heading = Some(arg.get_help_heading());
            let title = arg.get_help_heading().unwrap_or("Options");
            writeln!(text, "\n### {title}\n\n| flag | variable | default | |\n|---|---|---|---|").unwrap();
        }
        writeln!(text, "| {} | {} | {} | {} |", flag(arg), variable(arg), default(arg), help(arg)).unwrap();
    }
}

fn flag(arg: &Arg) -> String {
    let value = arg.get_value_names().filter(|_| arg.get_action().takes_values()).map(|names| names[0].to_string());
    let (Some(long), value) = (arg.get_long(), value.unwrap_or_default()) else {
        return format!("`[{}]`", arg.get_value_names().unwrap()[0]);
    };
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let flag = format!("--{long} {value}");
    format!("{short}`{}`", flag.trim_end())
}

fn variable(arg: &Arg) -> String {
    arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default()
}

fn default(arg: &Arg) -> String {
    let values = arg.get_default_values().iter().filter(|_| arg.get_action().takes_values());
    values.map(|value| format!("`{}`", value.to_string_lossy())).collect::<Vec<_>>().join(", ")
}

fn help(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let values: Vec<String> = arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let choices = if values.is_empty() || !arg.get_action().takes_values() || values.contains(&"`true`".to_owned()) {
        String::new()
    } else {
        format!(" One of {}.", values.join(", "))
    };
    let help = help.replace('\n', " ").replace('|', "\\|");
    format!("{}{choices}", if help.ends_with('.') { help } else { help + "." })
}

#[test]
fn cli_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    let expected = reference();
    if std::env::var_os("UPDATE_CLI_REFERENCE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/reference/cli.md is stale: UPDATE_CLI_REFERENCE=1 cargo test -p forebay cli_reference"
    );
}
