//! `POST /generate_stream`.

use forebay_engine::fake_worker::{FakeEvent, FakeScript, Fault, StepFault};
use serde_json::json;

use crate::support::{AND, END, GRIN_HEAD, GRIN_TAIL, HELLO, WORLD, server, server_of};

#[tokio::test]
async fn each_token_is_an_event_and_the_last_holds_the_whole() {
    let server = server(&[HELLO, GRIN_HEAD, GRIN_TAIL, END]).await;
    let body = json!({ "inputs": "the", "parameters": { "max_new_tokens": 9, "details": true } });
    let answer = server.post("/generate_stream", body).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    assert_eq!(answer.headers["cache-control"], "no-cache");
    assert_eq!(answer.headers["x-accel-buffering"], "no");
    assert_eq!(answer.headers["x-compute-characters"], "3");
    insta::assert_snapshot!(answer.body);
}

#[tokio::test]
async fn without_details_the_keys_are_there_and_null() {
    let server = server(&[HELLO, WORLD]).await;
    let body = json!({ "inputs": "a", "parameters": { "max_new_tokens": 2, "return_full_text": true } });
    let events = server.post("/generate_stream", body).await.events();
    assert!(events[0]["generated_text"].is_null() && events[0].get("details").unwrap().is_null());
    assert_eq!(events[1]["generated_text"], "aHello world");
    assert!(events[1].get("details").unwrap().is_null());
    assert!(events[1].get("top_tokens").is_none());
}

#[tokio::test]
async fn a_stop_string_ends_the_last_token_and_what_was_streamed_is_the_text() {
    let server = server(&[HELLO, WORLD, AND]).await;
    let body = json!({ "inputs": "a", "parameters": { "max_new_tokens": 9, "stop": ["wor"], "details": true } });
    let events = server.post("/generate_stream", body).await.events();
    let texts: Vec<&str> = events.iter().map(|event| event["token"]["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["Hello", " wor"]);
    assert_eq!(events[1]["generated_text"], "Hello wor");
    assert_eq!(events[1]["details"]["finish_reason"], "stop_sequence");
}

#[tokio::test]
async fn what_is_known_before_the_stream_is_answered_with_its_own_status() {
    let server = server(&[HELLO]).await;
    for parameters in [json!({ "top_p": 2 }), json!({ "decoder_input_details": true }), json!({ "best_of": 2 })] {
        let answer = server.post("/generate_stream", json!({ "inputs": "a", "parameters": parameters })).await;
        assert_eq!(answer.status, 422);
        assert_eq!(answer.json()["error_type"], "validation");
    }
}

#[tokio::test]
async fn a_failure_on_the_way_is_the_last_event() {
    let fault = Fault::Sequence { token_id: WORLD, kind: 2, message: "it broke".to_owned() };
    let script = FakeScript { faults: vec![fault], ..FakeScript::sequence([HELLO, WORLD]) };
    let server = server_of(script, |_| {}).await;
    let body = json!({ "inputs": "a", "parameters": { "max_new_tokens": 9 } });
    let answer = server.post("/generate_stream", body).await;
    assert_eq!(answer.status, 200);
    let last = answer.events().pop().unwrap();
    assert_eq!(last["error_type"], "generation");
    assert!(last["error"].as_str().unwrap().starts_with("Request failed during generation: "), "{last}");
}

#[tokio::test]
async fn a_group_lost_on_the_way_changes_nothing_of_a_stream() {
    let fault = Fault::Step { incarnation: 1, rank: 0, step_id: 2, kind: StepFault::BreakStream };
    let script = FakeScript::sequence([HELLO, WORLD, AND]);
    let body = json!({ "inputs": "a", "parameters": { "max_new_tokens": 9 } });
    let whole = server_of(script.clone(), |_| {}).await.post("/generate_stream", body.clone()).await;
    let server = server_of(FakeScript { faults: vec![fault], ..script }, |_| {}).await;
    let events = server.post("/generate_stream", body).await.events();
    assert_eq!(events, whole.events());
    assert!(events.last().unwrap()["generated_text"].is_string(), "{events:?}");
    assert!(server.worker.events().contains(&FakeEvent::Killed), "the group was lost");
}
