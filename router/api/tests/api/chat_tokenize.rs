//! `POST /chat_tokenize`.

use forebay_engine::fake_worker::FakeScript;
use serde_json::{Value, json};

use crate::support::{END, Server, server, server_of};

const HELLO_CHAT: &str = "<|im_start|>user\nHello é<|im_end|>\n<|im_start|>assistant\n";

fn body(options: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Hello é" }] });
    body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    body
}

/// The ids of an answer, and that its tokens' texts and ranges tile its text.
fn checked_ids(answer: &Value) -> Vec<u32> {
    let text = answer["templated_text"].as_str().unwrap();
    let tokens = answer["tokenize_response"].as_array().unwrap();
    let mut end = 0;
    for token in tokens {
        let [start, stop] = ["start", "stop"].map(|key| token[key].as_u64().unwrap() as usize);
        assert_eq!(start, end, "{token}");
        assert_eq!(token["text"], text[start..stop], "{token}");
        end = stop;
    }
    assert_eq!(end, text.len());
    tokens.iter().map(|token| token["id"].as_u64().unwrap() as u32).collect()
}

async fn tokenized(server: &Server, options: &Value) -> Value {
    server.post("/chat_tokenize", body(options)).await.ok()
}

#[tokio::test]
async fn the_templated_text_comes_with_its_tokens_byte_ranges() {
    let server = server(&[]).await;
    let answer = tokenized(&server, &json!({})).await;
    assert_eq!(answer["templated_text"], HELLO_CHAT);
    assert_eq!(answer["tokenize_response"][0], json!({ "id": 306, "text": "<|im_start|>", "start": 0, "stop": 12 }));
    let accented = json!({ "id": 302, "text": "é", "start": 23, "stop": 25 });
    assert!(answer["tokenize_response"].as_array().unwrap().contains(&accented), "{answer}");
    checked_ids(&answer);
}

#[tokio::test]
async fn it_is_the_prompt_of_a_chat_completion_with_the_same_body() {
    let server = server(&[END]).await;
    let continued = json!({ "messages": [
        { "role": "user", "content": [{ "type": "text", "text": "Hello" }] },
        { "role": "assistant", "content": " world" },
    ] });
    for options in [
        json!({}),
        json!({ "add_generation_prompt": false, "continue_final_message": false }),
        json!({ "chat_template_kwargs": { "enable_thinking": false }, "max_tokens": 4, "temperature": 0.5 }),
        continued,
    ] {
        let ids = checked_ids(&tokenized(&server, &options).await);
        server.post("/v1/chat/completions", body(&options)).await.ok();
        assert_eq!(ids, server.last_prompt(), "{options}");
    }
}

#[tokio::test]
async fn it_refuses_what_a_chat_completion_refuses_in_native_words() {
    let server = server(&[]).await;
    for (options, message) in [
        (json!({ "messages": [] }), "`messages` cannot be empty"),
        (json!({ "surprise": 1 }), "unknown field `surprise`"),
        (json!({ "n": 0 }), "`n` must be between 1 and 128. Given: 0"),
    ] {
        let answer = server.post("/chat_tokenize", body(&options)).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.json()["error"], format!("Input validation error: {message}"));
        assert_eq!(answer.json()["error_type"], "validation");
    }
}

#[tokio::test]
async fn a_text_that_the_template_makes_too_long_is_refused() {
    let server = server_of(FakeScript::default(), |config| config.limits.max_prompt_bytes = 20).await;
    let answer = server.post("/chat_tokenize", body(&json!({}))).await;
    assert_eq!(answer.status, 422);
    let message = format!("`prompt` must have at most 20 bytes. Given: {}", HELLO_CHAT.len());
    assert_eq!(answer.json()["error"], format!("Input validation error: {message}"));
}
