//! Statuses and bodies of what goes wrong, in both dialects.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request};
use forebay_engine::fake_worker::{FakeScript, Fault};
use serde_json::json;

use crate::support::{Answer, HELLO, Server, send, server, server_of};

const CHAT: &str = "/v1/chat/completions";

async fn raw(server: &Server, path: &str, content_type: &str, body: &str) -> Answer {
    let request = Request::post(path).header(CONTENT_TYPE, content_type).body(Body::from(body.to_owned())).unwrap();
    send(&server.app, request).await
}

fn assert_native(answer: &Answer) {
    let body = answer.json();
    assert!(body["error"].is_string() && body["error_type"].is_string(), "{body}");
}

fn assert_openai(answer: &Answer) {
    let error = &answer.json()["error"];
    for key in ["message", "type"] {
        assert!(error[key].is_string(), "{error}");
    }
    for key in ["param", "code"] {
        assert!(error.get(key).is_some(), "{error}");
    }
}

#[tokio::test]
async fn every_error_is_json_with_the_dialects_status() {
    let server = server_of(FakeScript::sequence([HELLO]), |config| config.limits.max_body_bytes = 100).await;
    let long = format!("{{\"inputs\": \"{}\"}}", "a".repeat(100));
    for (content_type, body, native, openai) in [
        ("application/json", "{", 400, 400),
        ("application/json", "", 400, 400),
        ("text/plain", "{}", 415, 415),
        ("application/json", "[]", 422, 400),
        ("application/json", "{}", 422, 400),
        ("application/json", "{\"inputs\": 5, \"messages\": 5}", 422, 400),
        ("application/json", "\u{0}", 400, 400),
        ("application/json", long.as_str(), 413, 413),
    ] {
        let answer = raw(&server, "/generate", content_type, body).await;
        assert_eq!(answer.status, native, "{body:?}");
        assert_native(&answer);
        let answer = raw(&server, CHAT, content_type, body).await;
        assert_eq!(answer.status, openai, "{body:?}");
        assert_openai(&answer);
    }
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_method_405() {
    let server = server(&[]).await;
    assert_native(&server.get("/nothing").await);
    assert_eq!(server.get("/nothing").await.status, 404);
    assert_openai(&server.get("/v1/nothing").await);
    let native = server.get("/generate").await;
    assert_eq!(native.status, 405);
    assert_native(&native);
    let openai = server.get(CHAT).await;
    assert_eq!(openai.status, 405);
    assert_openai(&openai);
    let deleted = Request::builder().method(Method::DELETE).uri("/health").body(Body::empty()).unwrap();
    assert_eq!(send(&server.app, deleted).await.status, 405);
}

#[tokio::test]
async fn deep_nesting_is_a_syntax_error_and_no_overflow() {
    let server = server(&[]).await;
    let body = format!("{{\"inputs\": {}", "[".repeat(100_000));
    assert_eq!(raw(&server, "/generate", "application/json", &body).await.status, 400);
}

#[tokio::test]
async fn a_full_server_says_when_to_come_back() {
    let script = FakeScript { step_delay: Duration::from_millis(20), ..FakeScript::sequence([HELLO]) };
    let server = server_of(script, |config| config.limits.max_concurrent_requests = 1).await;
    let held = server.open("/generate_stream", json!({ "inputs": "a" })).await;
    let native = server.generate("a", json!({})).await;
    assert_eq!(native.status, 429);
    assert_eq!(native.json(), json!({ "error": "Model is overloaded", "error_type": "overloaded" }));
    assert_eq!(native.headers["retry-after"], "1");
    let openai = server.chat(json!({})).await;
    assert_eq!(openai.status, 429);
    assert_eq!(openai.json()["error"]["type"], "rate_limit_error");
    drop(held);
    server.generate("a", json!({ "max_new_tokens": 1 })).await.ok();
}

#[tokio::test]
async fn a_sequence_that_fails_alone_is_424_or_422_natively_and_500_or_400_on_v1() {
    for (kind, native, openai) in [(1, 422, 400), (2, 424, 500)] {
        let fault = Fault::Sequence { token_id: HELLO, kind, message: "it broke".to_owned() };
        let script = FakeScript { faults: vec![fault], ..FakeScript::sequence([HELLO]) };
        let server = server_of(script.clone(), |_| {}).await;
        let answer = server.generate("a", json!({ "max_new_tokens": 2 })).await;
        assert_eq!(answer.status, native);
        assert!(answer.body.contains("it broke"), "{}", answer.body);
        let server = server_of(script, |_| {}).await;
        assert_eq!(server.chat(json!({ "max_tokens": 2 })).await.status, openai);
    }
}

#[tokio::test]
async fn request_ids_are_taken_over_or_made() {
    let server = server(&[]).await;
    let with = |id: &str| Request::get("/health").header("x-request-id", id).body(Body::empty()).unwrap();
    assert_eq!(send(&server.app, with("mine_1.a-b")).await.headers["x-request-id"], "mine_1.a-b");
    assert_eq!(send(&server.app, with("not plain")).await.headers["x-request-id"].len(), 32);
    assert_eq!(server.get("/nothing").await.headers["x-request-id"].len(), 32);
}

#[tokio::test]
async fn browsers_may_send_their_key_from_any_origin_unless_some_are_named() {
    let preflight = || {
        Request::builder()
            .method(Method::OPTIONS)
            .uri("/generate")
            .header("origin", "https://a.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
            .body(Body::empty())
            .unwrap()
    };
    let key = |config: &mut forebay_api::AppConfig| config.api_keys = vec!["k".to_owned()];
    let any = server_of(FakeScript::default(), key).await;
    let answer = send(&any.app, preflight()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert!(answer.headers["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    let named = server_of(FakeScript::default(), |config| {
        config.cors_allow_origin = vec!["https://b.example".parse().unwrap()];
    })
    .await;
    assert!(!send(&named.app, preflight()).await.headers.contains_key("access-control-allow-origin"));
}
