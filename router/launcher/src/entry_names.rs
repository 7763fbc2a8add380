//! What TGI's programs are asked for under their own names.

use forebay_api::Limits;

use crate::args::DownloadArgs;
use crate::args::entry_names::{DownloadWeightsArgs, RouterArgs, ServerCommand};

/// A command of TGI's that this program does not have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{what}` is refused: {why}")]
pub(crate) struct Refused {
    what: &'static str,
    why: &'static str,
}

/// `text-generation-server`: what is to be downloaded.
pub(crate) fn server(command: ServerCommand) -> Result<DownloadArgs, Refused> {
    let refuse = |what, why| Err(Refused { what, why });
    match command {
        ServerCommand::DownloadWeights(args) => download_weights(*args),
        ServerCommand::Serve(_) => refuse(
            "text-generation-server serve",
            "workers are no servers of their own; start all with `text-generation-launcher` or `forebay serve`",
        ),
        ServerCommand::Quantize(_) => refuse(
            "text-generation-server quantize",
            "quantizing is not built yet; serve a file that is quantized already, a `.gguf` say",
        ),
    }
}

fn download_weights(args: DownloadWeightsArgs) -> Result<DownloadArgs, Refused> {
    if args.trust_remote_code {
        return Err(Refused { what: "--trust-remote-code", why: "code that comes with a model is never run" });
    }
    if args.merge_lora {
        return Err(Refused { what: "--merge-lora", why: "adapters are not built yet; serve a merged model" });
    }
    Ok(DownloadArgs {
        model_id: Some(args.model_id),
        revision: args.revision,
        huggingface_hub_cache: None,
        weights_cache_override: None,
        python: None,
    })
}

/// `text-generation-router`: the API's document.
pub(crate) fn router(args: &RouterArgs) -> Result<String, Refused> {
    if args.command.is_none() {
        return Err(Refused {
            what: "text-generation-router",
            why: "the router and the launcher are one program; start it as `text-generation-launcher` or `forebay serve`",
        });
    }
    let document = forebay_api::document(&Limits::default(), env!("CARGO_PKG_VERSION"));
    Ok(format!("{document:#}\n"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::args::{Command, parse};

    fn command(words: &[&str]) -> Command {
        parse(words.iter().map(OsString::from).collect(), &|_| None).unwrap().command
    }

    #[test]
    fn the_launchers_name_means_serve() {
        for words in [
            &["/usr/bin/text-generation-launcher", "--model-id", "a/b", "-p", "80"][..],
            &["forebay", "text-generation-launcher", "--model-id", "a/b", "--port", "80"],
        ] {
            let Command::Serve(args) = command(words) else { panic!("{words:?}") };
            assert_eq!((args.model.model_id.as_deref(), args.http.port), (Some("a/b"), 80));
        }
        let help = parse(["text-generation-launcher", "--help"].map(OsString::from).to_vec(), &|_| None);
        assert!(help.unwrap_err().to_string().contains("--max-concurrent-requests"));
    }

    #[test]
    fn the_servers_download_weights_means_download() {
        let asked = |words: &[&str]| {
            let words: Vec<&str> =
                ["text-generation-server", "download-weights"].iter().chain(words).copied().collect();
            let Command::TgiServer { command } = command(&words) else { panic!("{words:?}") };
            server(command)
        };
        let flags = ["--revision", "main", "--extension", ".safetensors", "--auto-convert", "--json-output"];
        let args = asked(&[&["a/b"][..], &flags].concat()).unwrap();
        assert_eq!((args.model_id.as_deref(), args.revision.as_deref()), (Some("a/b"), Some("main")));
        for flag in ["--trust-remote-code", "--merge-lora"] {
            assert_eq!(asked(&["a/b", flag]).unwrap_err().what, flag);
        }
    }

    #[test]
    fn what_is_not_built_is_refused_with_the_way_out() {
        for (words, way_out) in [
            (&["text-generation-server", "serve", "a/b", "--sharded"][..], "text-generation-launcher"),
            (&["text-generation-server", "quantize", "a/b", "/out", "--act-order"], ".gguf"),
        ] {
            let Command::TgiServer { command } = command(words) else { panic!("{words:?}") };
            assert!(server(command).unwrap_err().to_string().contains(way_out));
        }
        let Command::TgiRouter(args) = command(&["text-generation-router", "--port", "80"]) else { panic!() };
        assert!(router(&args).unwrap_err().to_string().contains("text-generation-launcher"));
    }

    #[test]
    fn the_routers_print_schema_prints_the_apis_document() {
        let Command::TgiRouter(args) = command(&["text-generation-router", "print-schema"]) else { panic!() };
        let document: serde_json::Value = serde_json::from_str(&router(&args).unwrap()).unwrap();
        assert!(document["paths"]["/generate"]["post"].is_object());
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
