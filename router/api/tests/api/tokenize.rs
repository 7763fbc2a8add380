//! `POST /tokenize`.

use serde_json::json;

use crate::support::server;

#[tokio::test]
async fn tokens_come_with_their_byte_ranges() {
    let server = server(&[]).await;
    let answer = server.post("/tokenize", json!({ "inputs": "Hello é and" })).await;
    let expected = json!([
        { "id": 262, "text": "Hello", "start": 0, "stop": 5 },
        { "id": 220, "text": " ", "start": 5, "stop": 6 },
        { "id": 302, "text": "é", "start": 6, "stop": 8 },
        { "id": 276, "text": " and", "start": 8, "stop": 12 },
    ]);
    assert_eq!(answer.ok(), expected);
}

#[tokio::test]
async fn an_empty_text_and_one_beyond_the_byte_limit_are_refused() {
    let server = crate::support::server_of(forebay_engine::fake_worker::FakeScript::default(), |config| {
        config.limits.max_prompt_bytes = 8;
    })
    .await;
    for (inputs, message) in
        [("", "`inputs` cannot be empty"), ("123456789", "`inputs` must have at most 8 bytes. Given: 9")]
    {
        let answer = server.post("/tokenize", json!({ "inputs": inputs })).await;
        assert_eq!(answer.status, 422);
        assert_eq!(answer.json()["error"], format!("Input validation error: {message}"));
    }
}

#[tokio::test]
async fn it_refuses_the_parameters_that_generate_refuses() {
    let server = server(&[]).await;
    for (parameters, message) in
        [(json!({ "surprise": 1 }), "unknown field `parameters.surprise`"), (json!({ "top_p": 2 }), "`top_p` must be")]
    {
        let answer = server.post("/tokenize", json!({ "inputs": "a", "parameters": parameters })).await;
        assert_eq!(answer.status, 422);
        assert!(answer.message().contains(message), "{}", answer.message());
    }
}
