//! A client that leaves takes its generation with it.

use std::time::Duration;

use forebay_engine::fake_worker::FakeScript;
use http_body_util::BodyExt;
use serde_json::json;

use crate::support::{HELLO, Server, post, server_of};

async fn slow() -> Server {
    let script = FakeScript { step_delay: Duration::from_millis(5), ..FakeScript::sequence([HELLO]) };
    server_of(script, |_| {}).await
}

/// Waits until nothing waits, runs or holds a block.
async fn assert_idle(server: &Server) {
    let idle = async {
        loop {
            let stats = server.engine.stats();
            if stats.queued == 0 && stats.running == 0 && stats.blocks_held == 0 && stats.blocks_fenced == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(60), idle).await;
    assert!(outcome.is_ok(), "still busy: {:?}", server.engine.stats());
}

#[tokio::test]
async fn dropping_a_stream_in_the_middle_frees_everything() {
    let server = slow().await;
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    for (path, body) in [
        ("/generate_stream", json!({ "inputs": "Hello" })),
        ("/v1/chat/completions", json!({ "messages": messages, "stream": true })),
        ("/v1/completions", json!({ "prompt": "Hello", "stream": true })),
    ] {
        let response = server.open(path, body).await;
        let mut body = response.into_body();
        for _ in 0..2 {
            body.frame().await.unwrap().unwrap();
        }
        assert_eq!(server.engine.stats().running, 1, "{path}");
        drop(body);
        assert_idle(&server).await;
    }
}

#[tokio::test]
async fn dropping_a_stream_before_its_first_byte_frees_everything() {
    let server = slow().await;
    drop(server.open("/generate_stream", json!({ "inputs": "Hello" })).await);
    assert_idle(&server).await;
}

#[tokio::test]
async fn leaving_while_a_whole_answer_is_made_frees_everything() {
    let server = slow().await;
    let app = server.app.clone();
    let request = tokio::spawn(tower::ServiceExt::oneshot(app, post("/generate", &json!({ "inputs": "Hello" }))));
    while server.engine.stats().running == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    request.abort();
    assert_idle(&server).await;
}

#[tokio::test]
async fn leaving_a_stream_of_several_choices_frees_all_of_them() {
    let server = slow().await;
    let body = json!({ "prompt": ["Hello", "a"], "n": 4, "stream": true });
    let mut body = server.open("/v1/completions", body).await.into_body();
    body.frame().await.unwrap().unwrap();
    while server.engine.stats().running < 8 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(body);
    assert_idle(&server).await;
}
