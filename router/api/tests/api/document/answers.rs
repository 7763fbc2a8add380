//! Answers are as the document says: no key more, no key that never comes.

use forebay_engine::fake_worker::FakeScript;
use serde_json::{Value, json};

use super::document_of;
use super::schemas::Checker;
use crate::support::{END, HELLO, MODEL_ID, Server, WORLD, server_of};

/// Paths, bodies, and the schemas of the answers; a body with `stream` is answered by events.
fn requests() -> Vec<(&'static str, Value, &'static str)> {
    let all = json!({ "details": true, "decoder_input_details": true, "top_n_tokens": 2, "max_new_tokens": 3 });
    let mut best = all.clone();
    best["best_of"] = json!(2);
    best["do_sample"] = json!(true);
    let told = json!({ "details": true, "top_n_tokens": 2 });
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    let usage = json!({ "include_usage": true });
    vec![
        ("/generate", json!({ "inputs": "Hello and" }), "GenerateResponse"),
        ("/generate", json!({ "inputs": "Hello and", "parameters": all }), "GenerateResponse"),
        ("/generate", json!({ "inputs": "Hello and", "parameters": best }), "GenerateResponse"),
        ("/generate_stream", json!({ "inputs": "Hello and", "stream": true }), "StreamResponse"),
        ("/", json!({ "inputs": "Hello and", "parameters": told, "stream": true }), "StreamResponse"),
        ("/chat_tokenize", json!({ "messages": messages }), "ChatTokenizeResponse"),
        ("/v1/chat/completions", json!({ "messages": messages }), "ChatCompletion"),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "logprobs": true, "top_logprobs": 2, "n": 2, "prompt_logprobs": 1 }),
            "ChatCompletion",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "logprobs": true, "stream": true, "stream_options": usage }),
            "ChatCompletionChunk",
        ),
        ("/v1/completions", json!({ "prompt": "Hello and" }), "Completion"),
        (
            "/v1/completions",
            json!({ "prompt": ["Hello and", "and"], "logprobs": 2, "echo": true, "prompt_logprobs": 1 }),
            "Completion",
        ),
        (
            "/v1/completions",
            json!({ "prompt": "Hello and", "logprobs": 2, "stream": true, "stream_options": usage }),
            "CompletionChunk",
        ),
        ("/vertex", json!({ "instances": [{ "inputs": "Hello and" }, { "messages": messages }] }), "VertexResponse"),
        (
            "/vertex",
            json!({ "instances": [{ "inputs": "Hello and", "parameters": { "details": true } }] }),
            "VertexResponse",
        ),
        ("/v2/models/m/versions/1/infer", json!({ "id": "7", "inputs": [{ "data": ["Hello and"] }] }), "InferResponse"),
        ("/generate", json!({ "inputs": "" }), "ErrorResponse"),
        ("/v1/completions", json!({ "prompt": "" }), "OpenAiErrorResponse"),
    ]
}

async fn answers(server: &Server, path: &str, body: Value) -> Vec<Value> {
    let streams = body["stream"] == true;
    let answer = server.post(path, body).await;
    if streams { answer.events() } else { vec![answer.json()] }
}

#[tokio::test]
async fn they_hold_what_is_described_and_nothing_else() {
    let server = server_of(FakeScript::sequence([HELLO, WORLD, END]), |_| {}).await;
    let document = document_of(&server).await;
    let mut checker = Checker::new(&document);
    for (path, body, schema) in requests() {
        for answer in answers(&server, path, body).await.iter().filter(|answer| *answer != "[DONE]") {
            assert_eq!(checker.complaint(checker.component(schema), answer, schema), None, "{path}: {answer}");
        }
    }
    for (path, schema) in [
        ("/info", "Info".to_owned()),
        ("/v1/models", "Models".to_owned()),
        ("/v2", "ServerMetadata".to_owned()),
        ("/v2/health/ready", "Liveness".to_owned()),
        (&format!("/v1/models/{MODEL_ID}"), "Model".to_owned()),
    ] {
        let answer = server.get(path).await.ok();
        assert_eq!(checker.complaint(checker.component(&schema), &answer, &schema), None, "{answer}");
    }
    let unseen: Vec<String> = document["components"]["schemas"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| !name.ends_with("Request") && *name != "GenerateParameters")
        .flat_map(|(name, schema)| checker.unseen(schema, name))
        .collect();
    assert_eq!(unseen, Vec::<String>::new());
}
