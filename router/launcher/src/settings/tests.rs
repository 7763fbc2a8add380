use std::ffi::OsString;

use super::*;
use crate::args::{self, Command};

fn settings(words: &[&str]) -> Result<Settings, SettingsError> {
    settings_in(words, Surroundings::default())
}

fn settings_in(words: &[&str], surroundings: Surroundings) -> Result<Settings, SettingsError> {
    let argv: Vec<OsString> = ["forebay", "serve"].iter().chain(words).map(OsString::from).collect();
    match args::parse(argv, &|_| None).unwrap().command {
        Command::Serve(args) => Settings::from_args(&args, surroundings),
        other => panic!("expected serve, got {other:?}"),
    }
}

fn refusal(words: &[&str]) -> String {
    settings(words).unwrap_err().to_string()
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let refused: [&[&str]; 13] = [
        &["--quantize", "awq"],
        &["--speculate", "2"],
        &["--trust-remote-code"],
        &["--rope-scaling", "linear"],
        &["--rope-factor", "2"],
        &["--lora-adapters", "a,b"],
        &["--otlp-endpoint", "http://x"],
        &["--otlp-service-name", "x"],
        &["--ngrok"],
        &["--ngrok-authtoken", "secret"],
        &["--ngrok-edge", "x"],
        &["--kv-cache-dtype", "fp8_e4m3fn"],
        &["--kv-cache-dtype", "fp8_e5m2"],
    ];
    for words in refused {
        let message = refusal(words);
        assert!(message.contains(&format!("`{}`", words[0])), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

#[test]
fn all_refusals_are_told_at_once() {
    let message = refusal(&["--quantize", "awq", "--speculate", "2"]);
    assert!(message.contains("`--quantize`") && message.contains("`--speculate`"), "{message}");
}

#[test]
fn what_scheduling_makes_moot_is_named_and_accepted() {
    let settings = settings(&[
        "--waiting-served-ratio",
        "1.2",
        "--max-waiting-tokens",
        "20",
        "--max-batch-total-tokens",
        "9",
        "--cuda-graphs",
        "0",
        "--shard-uds-path",
        "/x",
        "--master-addr",
        "h",
        "--master-port",
        "1",
        "--prometheus-port",
        "9000",
        "--enable-prefill-logprobs",
        "--disable-grammar-support",
        "--usage-stats",
        "on",
        "--max-image-fetch-size",
        "1073741824",
    ]);
    assert_eq!(settings.unwrap().without_effect.len(), 12);
    assert!(super::tests::settings(&[]).unwrap().without_effect.is_empty());
}

#[test]
fn both_names_of_the_input_limit_are_one_too_many() {
    assert!(refusal(&["--max-input-tokens", "5", "--max-input-length", "5"]).contains("`--max-input-length`"));
    assert_eq!(settings(&["--max-input-length", "5"]).unwrap().limits.max_input_tokens, Some(5));
    assert!(refusal(&["--max-input-tokens", "5", "--max-total-tokens", "5"]).contains("less than"));
}

#[test]
fn a_model_is_named_once() {
    assert_eq!(settings(&["a/b"]).unwrap().model.model_id.as_deref(), Some("a/b"));
    assert_eq!(settings(&["a/b", "--model-id", "a/b"]).unwrap().model.model_id.as_deref(), Some("a/b"));
    assert!(refusal(&["a/b", "--model-id", "c/d"]).contains("`a/b` and `c/d`"));
}

#[test]
fn sharded_and_the_number_of_shards_agree() {
    assert_eq!(settings(&[]).unwrap().workers.num_shard, 1);
    assert_eq!(settings(&["--sharded", "false"]).unwrap().workers.num_shard, 1);
    assert_eq!(settings(&["--sharded", "true", "--num-shard", "3"]).unwrap().workers.num_shard, 3);
    assert!(refusal(&["--sharded", "true"]).contains("`--num-shard N`"));
    assert!(refusal(&["--sharded", "false", "--num-shard", "2"]).contains("contradicts"));
    assert!(refusal(&["--sharded", "true", "--num-shard", "1"]).contains("contradicts"));
}

#[test]
fn sharded_alone_takes_every_gpu_that_is_named() {
    let with_gpus = |number| Surroundings { num_visible_gpus: Some(number), ..Surroundings::default() };
    let num_shard = |words: &[&str], number| settings_in(words, with_gpus(number)).unwrap().workers.num_shard;
    assert_eq!(num_shard(&["--sharded", "true"], 4), 4);
    assert_eq!(num_shard(&["--sharded", "true", "--num-shard", "2"], 4), 2);
    assert_eq!(num_shard(&[], 4), 1);
    assert!(settings_in(&["--sharded", "true"], with_gpus(1)).is_err());
}

#[test]
fn what_tgi_reads_from_variables_alone_is_a_setting() {
    assert!(settings(&[]).unwrap().engine.prefix_caching);
    assert!(!settings(&["--prefix-caching", "0"]).unwrap().engine.prefix_caching);
    assert_eq!(settings(&["--compute-type", "gpu+optimized"]).unwrap().compute_type.unwrap(), "gpu+optimized");
    assert!(refusal(&["--compute-type", "a\nb"]).contains("`--compute-type`"));
}

#[test]
fn a_watermark_is_as_strong_as_the_operator_says() {
    assert_eq!(settings(&[]).unwrap().watermark, Watermark { gamma: 0.5, delta: 2.0 });
    let given = settings(&["--watermark-gamma", "0.25", "--watermark-delta", "-1.5"]).unwrap().watermark;
    assert_eq!(given, Watermark { gamma: 0.25, delta: -1.5 });
    for text in ["0", "1", "-0.5", "nan", "x"] {
        assert!(parse_gamma(text).is_err(), "{text}");
    }
    assert!(parse_finite("inf").is_err());
}

#[test]
fn a_platforms_paths_are_checked() {
    assert!(settings(&["--vertex-predict-route", "/predict", "--vertex-health-route", "/health"]).is_ok());
    assert!(refusal(&["--vertex-predict-route", "/generate"]).contains("`/generate`, which is a route of its own"));
}

#[test]
fn a_share_of_gpu_memory_needs_a_gpu() {
    let fraction = |words: &[&str]| settings(words).unwrap().workers.cuda_memory_fraction;
    assert!((fraction(&["--cuda-memory-fraction", "0.5"]) - 0.5).abs() < f64::EPSILON);
    assert!(fraction(&["--device", "cpu", "--cuda-memory-fraction", "1.0"]) >= 1.0);
    let message = refusal(&["--device", "cpu", "--cuda-memory-fraction", "0.5"]);
    assert!(message.contains("`--cuda-memory-fraction` is `0.5`, but `--device` is `cpu`"), "{message}");
    for text in ["0", "-1", "1.01", "nan", "all"] {
        assert!(parse_fraction(text).is_err(), "{text}");
    }
}

#[test]
fn replicas_and_shards_share_the_cores() {
    let threads = |words: &[&str]| settings(words).unwrap().workers.num_threads;
    let cores = threads(&[]);
    assert_eq!(threads(&["--replicas", "2"]), (cores / 2).max(1));
    assert_eq!(threads(&["--replicas", "2", "--num-shard", "3"]), (cores / 6).max(1));
    assert_eq!(threads(&["--replicas", "256", "--num-shard", "1024"]), 1);
    assert_eq!(threads(&["--replicas", "2", "--num-threads", "7"]), 7);
}

#[test]
fn a_step_holds_at_least_one_token_of_each_sequence() {
    let bounds = |words: &[&str]| {
        let workers = settings(words).unwrap().workers;
        (workers.max_sequences, workers.max_plan_tokens)
    };
    assert_eq!(bounds(&[]), (128, 512));
    assert_eq!(bounds(&["--max-concurrent-requests", "8"]), (8, 512));
    assert_eq!(bounds(&["--max-batch-size", "1024"]), (1024, 1024));
    assert_eq!(bounds(&["--max-batch-prefill-tokens", "64"]), (64, 64));
    assert!(refusal(&["--max-batch-prefill-tokens", "64", "--max-batch-size", "65"]).contains("at least"));
}

#[test]
fn every_choice_of_every_admitted_request_may_wait() {
    let max_queued = |requests: &str| {
        settings(&["--max-concurrent-requests", requests, "--max-best-of", "6"]).unwrap().engine.max_queued
    };
    assert_eq!(max_queued("100"), 600);
    assert_eq!(max_queued("10"), MAX_CHOICES, "one request's choices always have room");
}

#[test]
fn a_key_file_without_keys_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "first\n").unwrap();
    assert_eq!(settings(&["--api-key-file", path.to_str().unwrap()]).unwrap().api_keys.len(), 1);
    std::fs::write(&path, "\n").unwrap();
    assert!(refusal(&["--api-key-file", path.to_str().unwrap()]).contains("holds no key"));
}

#[test]
fn origins_are_any_when_a_star_is_among_them() {
    assert_eq!(settings(&["--cors-allow-origin", "https://a.org,https://b.org"]).unwrap().cors_allow_origin.len(), 2);
    assert!(settings(&["--cors-allow-origin", "*"]).unwrap().cors_allow_origin.is_empty());
    assert!(refusal(&["--cors-allow-origin", "a\nb"]).contains("`--cors-allow-origin`"));
}

#[test]
fn bytes_are_read_with_units() {
    for (text, bytes) in
        [("7", 7), ("1KiB", 1024), ("1kB", 1000), ("2 GiB", 2 << 30), ("3M", 3_000_000), ("1Mi", 1 << 20)]
    {
        assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
    }
    for text in ["", "-1", "1.5GiB", "1PiB", "0", "GiB", "99999999999T"] {
        assert!(parse_bytes(text).is_err(), "{text}");
    }
}

#[test]
fn workers_hear_the_level_that_holds_for_all_modules() {
    for (filter, level) in [("info", "info"), ("DEBUG", "debug"), ("forebay=trace,warn", "warn"), ("a=debug", "info")] {
        assert_eq!(worker_log_level(filter), level, "{filter}");
    }
}
