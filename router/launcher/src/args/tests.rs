use std::ffi::OsString;

use super::*;

fn serve_args(words: &[&str]) -> ServeArgs {
    match parse_words(words).unwrap().command {
        Command::Serve(args) => *args,
        other => panic!("expected serve, got {other:?}"),
    }
}

fn parse_words(words: &[&str]) -> Result<Cli, clap::Error> {
    let argv = std::iter::once("forebay").chain(words.iter().copied()).map(OsString::from).collect();
    parse(argv, &|_| None)
}

#[test]
fn the_declaration_is_sound() {
    command(&|_| None).debug_assert();
}

#[test]
fn a_benchmark_has_one_shape_and_one_end() {
    for words in [["--concurrency", "2", "--rate", "3"], ["--num-requests", "5", "--duration", "3"]] {
        assert!(parse_words(&[&["bench"], &words[..]].concat()).is_err(), "{words:?}");
    }
    for words in [["--rate", "0"], ["--duration", "-1"], ["--shared-prefix", "1.1"], ["--extra-body", "[]"]] {
        assert!(parse_words(&[&["bench"], &words[..]].concat()).is_err(), "{words:?}");
    }
    assert!(
        parse_words(&["bench", "--duration", "3", "--sweep-concurrency", "1,2", "--goodput", "ttft:500,itl:50"])
            .is_ok()
    );
}

#[test]
fn a_tgi_command_line_starts_unchanged() {
    let args = serve_args(&[
        "--model-id",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "--revision",
        "main",
        "--num-shard",
        "2",
        "--sharded",
        "true",
        "-p",
        "8080",
        "--hostname",
        "127.0.0.1",
        "--max-concurrent-requests",
        "256",
        "--max-input-tokens",
        "1024",
        "--max-total-tokens",
        "2048",
        "--max-batch-prefill-tokens",
        "4096",
        "--dtype",
        "bfloat16",
        "--waiting-served-ratio",
        "1.2",
        "--max-waiting-tokens",
        "20",
        "--cuda-graphs",
        "1,2,4",
        "--json-output",
        "--validation-workers",
        "4",
        "-g",
        "30",
        "--usage-stats",
        "off",
        "--master-port",
        "29501",
    ]);
    assert_eq!(args.model.model_id.as_deref(), Some("HuggingFaceTB/SmolLM2-135M-Instruct"));
    assert_eq!(args.workers.num_shard, Some(2));
    assert_eq!(args.http.port, 8080);
    assert_eq!(args.limits.max_total_tokens, Some(2048));
    assert_eq!(args.moot.cuda_graphs, Some(vec![1, 2, 4]));
    assert_eq!(args.http.graceful_termination_timeout, 30);
    assert!(args.logs.json_output);
}

#[test]
fn an_empty_command_line_serves_the_default_with_tgis_defaults() {
    let args = serve_args(&[]);
    assert_eq!((args.model.model, args.model.model_id), (None, None));
    assert_eq!((args.http.hostname.to_string(), args.http.port), ("0.0.0.0".to_owned(), 3000));
    assert_eq!((args.limits.max_concurrent_requests, args.limits.max_best_of), (128, 2));
    assert_eq!((args.limits.max_stop_sequences, args.limits.max_top_n_tokens), (4, 5));
    assert_eq!((args.limits.max_client_batch_size, args.limits.payload_limit), (4, 2_000_000));
}

#[test]
fn a_subcommand_is_needed_only_where_the_first_word_is_no_flag() {
    assert_eq!(serve_args(&["serve", "some/model"]).model.model.as_deref(), Some("some/model"));
    assert!(matches!(parse_words(&["download", "some/model"]).unwrap().command, Command::Download(_)));
    assert!(parse_words(&["some/model"]).is_err());
    assert_eq!(serve_args(&["serve", "serve"]).model.model, None, "as SageMaker starts an image");
    for word in ["--help", "-h", "--version", "-V"] {
        assert_eq!(parse_words(&[word]).unwrap_err().exit_code(), 0, "{word}");
    }
}

#[test]
fn every_flag_of_tgi_is_known() {
    let flags = [
        "model-id",
        "revision",
        "validation-workers",
        "sharded",
        "num-shard",
        "quantize",
        "speculate",
        "dtype",
        "kv-cache-dtype",
        "trust-remote-code",
        "max-concurrent-requests",
        "max-best-of",
        "max-stop-sequences",
        "max-top-n-tokens",
        "max-input-tokens",
        "max-input-length",
        "max-total-tokens",
        "waiting-served-ratio",
        "max-batch-prefill-tokens",
        "max-batch-total-tokens",
        "max-waiting-tokens",
        "max-batch-size",
        "cuda-graphs",
        "hostname",
        "port",
        "prometheus-port",
        "shard-uds-path",
        "master-addr",
        "master-port",
        "huggingface-hub-cache",
        "weights-cache-override",
        "disable-custom-kernels",
        "cuda-memory-fraction",
        "rope-scaling",
        "rope-factor",
        "json-output",
        "otlp-endpoint",
        "otlp-service-name",
        "cors-allow-origin",
        "api-key",
        "watermark-gamma",
        "watermark-delta",
        "ngrok",
        "ngrok-authtoken",
        "ngrok-edge",
        "tokenizer-config-path",
        "disable-grammar-support",
        "env",
        "max-client-batch-size",
        "max-image-fetch-size",
        "prefix-caching",
        "compute-type",
        "log-level",
        "log-colorize",
        "lora-adapters",
        "usage-stats",
        "payload-limit",
        "enable-prefill-logprobs",
        "graceful-termination-timeout",
    ];
    let command = command(&|_| None);
    let serve = command.find_subcommand("serve").unwrap();
    for flag in flags {
        let arg = serve.get_arguments().find(|arg| arg.get_long() == Some(flag));
        let arg = arg.unwrap_or_else(|| panic!("--{flag} is not declared"));
        let variable = flag.replace('-', "_").to_uppercase();
        assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()), "--{flag}");
    }
}

#[test]
fn flags_of_our_own_have_variables_with_our_name() {
    let command = command(&|_| None);
    let serve = command.find_subcommand("serve").unwrap();
    for flag in ["python", "run-ahead", "block-size", "kv-cache-bytes", "attention", "device", "step-timeout"] {
        let arg = serve.get_arguments().find(|arg| arg.get_long() == Some(flag)).unwrap();
        let variable = format!("FOREBAY_{}", flag.replace('-', "_").to_uppercase());
        assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()), "--{flag}");
    }
}

#[test]
fn a_flag_that_is_nearly_right_is_told_what_was_meant() {
    for (flag, meant) in [("--max-batch-prefil-tokens", "--max-batch-prefill-tokens"), ("--modelid", "--model-id")] {
        let message = parse_words(&[flag, "1"]).unwrap_err().to_string();
        assert!(message.contains(&format!("a similar argument exists: '{meant}'")), "{message}");
    }
    let message = parse_words(&["sevre"]).unwrap_err().to_string();
    assert!(message.contains("a similar subcommand exists: 'serve'"), "{message}");
}

#[test]
fn every_flag_of_serve_stands_under_a_topic() {
    let command = command(&|_| None);
    let serve = command.find_subcommand("serve").unwrap();
    let without = serve.get_arguments().filter(|arg| arg.get_id() != "help" && arg.get_help_heading().is_none());
    assert_eq!(without.map(|arg| arg.get_id().to_string()).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_key_is_in_no_debug_output() {
    let args = serve_args(&["--api-key", "sesame"]);
    assert_eq!(args.http.api_key.as_ref().unwrap().reveal(), "sesame");
    assert!(!format!("{args:?}").contains("sesame"));
}
