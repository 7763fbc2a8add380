//! `POST /`.

use serde_json::json;

use crate::support::{HELLO, WORLD, server};

#[tokio::test]
async fn the_answer_is_an_array_and_begins_with_the_prompt_by_default() {
    let server = server(&[HELLO, WORLD]).await;
    let answer = server.post("/", json!({ "inputs": "a", "parameters": { "max_new_tokens": 2 } })).await;
    assert_eq!(answer.ok(), json!([{ "generated_text": "aHello world" }]));
}

#[tokio::test]
async fn stream_in_the_body_makes_it_a_stream() {
    let server = server(&[HELLO, WORLD]).await;
    let body = json!({ "inputs": "a", "stream": true, "parameters": { "max_new_tokens": 2 } });
    let events = server.post("/", body).await.events();
    assert_eq!(events.len(), 2);
    assert_eq!(events[1]["generated_text"], "aHello world");
}

#[tokio::test]
async fn the_old_hosted_apis_options_are_harmless_and_other_fields_are_not() {
    let server = server(&[HELLO]).await;
    let body = json!({ "inputs": "a", "parameters": { "max_new_tokens": 1 }, "options": { "use_cache": false } });
    server.post("/", body).await.ok();
    let answer = server.post("/", json!({ "inputs": "a", "max_new_tokens": 1 })).await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.json()["error"], "Input validation error: unknown field `max_new_tokens`");
}
