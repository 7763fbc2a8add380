//! `POST /v1/completions`.

use serde_json::{Value, json};

use crate::support::{AND, BANG, END, HELLO, WORLD, completion_text, server};

#[tokio::test]
async fn a_whole_answer_looks_like_openais() {
    let server = server(&[HELLO, WORLD, BANG]).await;
    let answer = server.complete(json!({ "model": "mine", "max_tokens": 3, "logprobs": 1 })).await;
    answer.ok();
    insta::assert_snapshot!(answer.stable_body());
}

#[tokio::test]
async fn a_stream_ends_with_usage_if_asked_and_done() {
    let server = server(&[HELLO, WORLD, END]).await;
    let answer = server.complete(json!({ "stream": true, "stream_options": { "include_usage": true } })).await;
    insta::assert_snapshot!(answer.stable_body());
}

#[tokio::test]
async fn finish_reasons_are_stop_or_length_and_the_stop_is_trimmed() {
    let server = server(&[HELLO, WORLD, END]).await;
    for (options, text, reason) in [
        (json!({ "max_tokens": 1 }), "Hello", "length"),
        (json!({ "max_tokens": 9 }), "Hello world", "stop"),
        (json!({ "max_tokens": 9, "stop": " w" }), "Hello", "stop"),
    ] {
        let whole = server.complete(options.clone()).await.ok();
        assert_eq!(
            (&whole["choices"][0]["text"], &whole["choices"][0]["finish_reason"]),
            (&json!(text), &json!(reason))
        );
        let mut streamed = options;
        streamed["stream"] = json!(true);
        let events = server.complete(streamed).await.events();
        assert_eq!(completion_text(&events), text);
        let reasons: Vec<&Value> = events
            .iter()
            .map(|event| &event["choices"][0]["finish_reason"])
            .filter(|reason| !reason.is_null())
            .collect();
        assert_eq!(reasons, [reason]);
    }
}

#[tokio::test]
async fn a_prompt_may_be_text_ids_or_a_list_of_one() {
    let server = server(&[END]).await;
    for (prompt, ids) in [
        (json!("Hello and"), [HELLO, AND]),
        (json!(["Hello and"]), [HELLO, AND]),
        (json!([WORLD, AND]), [WORLD, AND]),
        (json!([[WORLD, AND]]), [WORLD, AND]),
    ] {
        server.complete(json!({ "prompt": prompt })).await.ok();
        assert_eq!(server.last_prompt(), ids);
    }
}

#[tokio::test]
async fn bad_fields_are_400_and_named() {
    let server = server(&[HELLO]).await;
    for (options, param) in [
        (json!({ "prompt": "" }), "prompt"),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": ["a", "b"] }), "prompt"),
        (json!({ "prompt": [1, "b"] }), "prompt"),
        (json!({ "prompt": [1024] }), "prompt"),
        (json!({ "prompt": null }), "prompt"),
        (json!({ "suffix": "x" }), "suffix"),
        (json!({ "echo": true }), "echo"),
        (json!({ "best_of": 2 }), "best_of"),
        (json!({ "logprobs": 6 }), "logprobs"),
        (json!({ "messages": [] }), "messages"),
    ] {
        let answer = server.complete(options.clone()).await;
        assert_eq!(answer.status, 400, "{options}");
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.body);
    }
    server.complete(json!({ "max_tokens": 1, "best_of": 1, "echo": false, "suffix": null, "n": 1 })).await.ok();
}
