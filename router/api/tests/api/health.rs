//! `GET /health`, `/ping`, `/`.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use forebay_engine::EngineState;
use forebay_engine::fake_worker::FakeScript;
use serde_json::json;

use crate::support::{END, post, send, server, started, without_model};

#[tokio::test]
async fn a_ready_server_answers_with_an_empty_body() {
    let server = server(&[]).await;
    for path in ["/health", "/ping", "/"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, ""), "{path}");
    }
}

#[tokio::test]
async fn before_there_is_a_model_whatever_needs_one_is_503() {
    let app = without_model();
    for path in ["/health", "/ping", "/", "/info", "/v1/models"] {
        let answer = send(&app, Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.json()["error"].is_string() || answer.json()["error"]["message"].is_string());
        assert_eq!(answer.headers["retry-after"], "1");
    }
    let messages = json!([{ "role": "user", "content": "a" }]);
    for (path, body) in [
        ("/generate", json!({ "inputs": "a" })),
        ("/tokenize", json!({ "inputs": "a" })),
        ("/v1/chat/completions", json!({ "messages": messages })),
        ("/v1/completions", json!({ "prompt": "a" })),
    ] {
        assert_eq!(send(&app, post(path, &body)).await.status, 503, "{path}");
    }
    assert_eq!(send(&app, Request::get("/metrics").body(Body::empty()).unwrap()).await.status, 200);
}

#[tokio::test]
async fn while_weights_load_it_is_unhealthy() {
    let script = FakeScript { load_delay: Duration::from_millis(200), ..FakeScript::sequence([END]) };
    let server = started(script, |_| {});
    let answer = server.get("/health").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json(), json!({ "error": "unhealthy", "error_type": "healthcheck" }));
    assert_eq!(server.generate("a", json!({})).await.status, 503);
    assert_eq!(server.engine.state_changed(&EngineState::Starting).await, EngineState::Ready);
    assert_eq!(server.get("/health").await.status, 200);
}
