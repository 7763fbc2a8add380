//! What headers tell of an answer's computation, on TGI's routes and on OpenAI's.

use axum::http::HeaderMap;
use forebay_engine::fake_worker::FakeScript;
use serde_json::{Value, json};

use crate::support::{HELLO, server, server_of};

const TIMES: &[&str] = &["x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token"];

/// Every route that generates: a whole answer's body, its prompts' characters, its answers' tokens.
fn routes() -> [(&'static str, Value, &'static str, &'static str); 5] {
    let native = json!({ "inputs": "hello and", "parameters": { "max_new_tokens": 2 } });
    let chat = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 2, "n": 2 });
    [
        ("/", native.clone(), "9", "2"),
        ("/generate", native, "9", "2"),
        ("/v1/chat/completions", chat, "55", "4"),
        ("/v1/completions", json!({ "prompt": "Hello", "max_tokens": 2, "n": 2 }), "5", "4"),
        ("/v1/completions", json!({ "prompt": ["Hello", "Hello and"], "max_tokens": 2 }), "14", "4"),
    ]
}

fn assert_times(headers: &HeaderMap, path: &str) {
    for name in TIMES {
        assert!(headers[*name].to_str().unwrap().parse::<u64>().is_ok(), "{path} {name}");
    }
    assert!(headers["x-compute-time"].to_str().unwrap().parse::<f64>().is_ok(), "{path}");
}

#[tokio::test]
async fn a_whole_answer_tells_counts_and_times() {
    let server = server(&[HELLO]).await;
    for (path, body, num_characters, num_generated_tokens) in routes() {
        let answer = server.post(path, body).await;
        let num_prompt_tokens = answer.ok()["usage"]["prompt_tokens"].as_u64().unwrap_or(2).to_string();
        for (name, value) in [
            ("x-compute-type", "1-cpu"),
            ("x-compute-characters", num_characters),
            ("x-prompt-tokens", &num_prompt_tokens),
            ("x-generated-tokens", num_generated_tokens),
        ] {
            assert_eq!(answer.headers[name], value, "{path} {name}");
        }
        assert_times(&answer.headers, path);
    }
}

#[tokio::test]
async fn a_stream_tells_what_is_known_before_it_begins() {
    let server = server(&[HELLO]).await;
    let streams = routes().map(|(path, mut body, num_characters, ..)| {
        body["stream"] = json!(true);
        (if path == "/generate" { "/generate_stream" } else { path }, body, num_characters)
    });
    for (path, body, num_characters) in streams {
        let answer = server.post(path, body).await;
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),
            ("x-compute-type", "1-cpu"),
            ("x-compute-characters", num_characters),
        ] {
            assert_eq!(answer.headers[name], value, "{path} {name}");
        }
        assert!(!answer.headers.contains_key("x-total-time"), "{path}");
    }
}

#[tokio::test]
async fn the_operators_compute_type_is_told_instead() {
    let server = server_of(FakeScript::sequence([HELLO]), |config| {
        config.compute_type = Some("gpu+optimized".parse().unwrap());
    })
    .await;
    let answer = server.generate("a", json!({ "max_new_tokens": 1 })).await;
    assert_eq!(answer.headers["x-compute-type"], "gpu+optimized");
}
