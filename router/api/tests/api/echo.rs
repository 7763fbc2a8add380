//! `echo` of `POST /v1/completions`: the prompt stands before each of its answers, with its log-probabilities if any are
//! asked for.

use forebay_engine::fake_worker::{FakeScript, FakeTokens, Fault, StepFault};
use serde_json::{Value, json};

use crate::support::{AND, BANG, END, GRIN_HEAD, GRIN_TAIL, HELLO, WORLD, completion_text, server, server_of};

/// What the fake worker makes up.
const OF_WORLD: f64 = -0.5;
const OF_AND: f64 = -0.625;
const OF_BANG: f64 = -0.125;

#[tokio::test]
async fn the_prompt_stands_before_the_answer_as_it_was_given() {
    let server = server(&[WORLD, END]).await;
    for (prompt, text) in [
        (json!("Hello and"), "Hello and world"),
        (json!(["Hello<|im_end|>"]), "Hello<|im_end|> world"),
        (json!([HELLO, AND]), "Hello and world"),
        (json!([[GRIN_HEAD, GRIN_TAIL, END, HELLO, GRIN_HEAD]]), "😀Hello\u{fffd} world"),
    ] {
        let options = json!({ "prompt": prompt, "echo": true });
        assert_eq!(server.complete(options.clone()).await.ok()["choices"][0]["text"], text);
        let mut streamed = options;
        streamed["stream"] = json!(true);
        assert_eq!(completion_text(&server.complete(streamed).await.events()), text);
    }
    assert!(server.worker.samplings().iter().all(|sampling| sampling.num_prompt_logprobs == -1), "nobody asked");
}

#[tokio::test]
async fn logprobs_cover_prompt_and_answer_and_the_first_is_null() {
    let server = server(&[BANG, END]).await;
    let options = json!({ "prompt": "Hello world and", "echo": true, "logprobs": 2, "max_tokens": 1 });
    let logprobs = server.complete(options).await.ok()["choices"][0]["logprobs"].clone();
    assert_eq!(logprobs["tokens"], json!(["Hello", " world", " and", "!"]));
    assert_eq!(logprobs["token_logprobs"], json!([null, OF_WORLD, OF_AND, OF_BANG]));
    assert_eq!(logprobs["text_offset"], json!([0, 5, 11, 15]));
    let top = logprobs["top_logprobs"].as_array().unwrap();
    assert!(top[0].is_null());
    assert_eq!(top[1][" world"], OF_WORLD);
    assert!(top[1..].iter().all(|top| top.as_object().unwrap().len() == 2), "{top:?}");
}

/// As evaluation harnesses score texts.
#[tokio::test]
async fn with_no_token_to_generate_the_prompt_alone_is_scored() {
    let server = server(&[END]).await;
    let options = json!({ "prompt": [[HELLO, AND], [WORLD]], "echo": true, "logprobs": 1, "max_tokens": 0 });
    let answer = server.complete(options.clone()).await.ok();
    for (index, text, tokens) in [(0, "Hello and", json!(["Hello", " and"])), (1, " world", json!([" world"]))] {
        let choice = &answer["choices"][index];
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(text), &json!("length")));
        assert_eq!(choice["logprobs"]["tokens"], tokens);
    }
    assert_eq!(answer["choices"][0]["logprobs"]["token_logprobs"], json!([null, OF_AND]));
    assert_eq!((&answer["usage"]["completion_tokens"], &answer["usage"]["total_tokens"]), (&json!(0), &json!(3)));
    let mut streamed = options;
    streamed["stream"] = json!(true);
    let events = server.complete(streamed).await.events();
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(events[0]["choices"][0]["logprobs"], answer["choices"][0]["logprobs"]);
    let message = server.complete(json!({ "max_tokens": 0 })).await.message();
    assert_eq!(message, "`max_tokens` must be strictly positive");
}

#[tokio::test]
async fn a_stream_tells_of_each_choice_what_the_whole_answer_tells() {
    let tokens = FakeTokens::InTurn(vec![vec![WORLD, END], vec![AND, BANG, END]]);
    let script = || FakeScript { tokens: tokens.clone(), ..FakeScript::default() };
    let options = json!({ "prompt": "Hello é!", "echo": true, "logprobs": 1, "n": 2 });
    let whole = server_of(script(), |_| {}).await.complete(options.clone()).await.ok();
    let mut streamed = options;
    streamed["stream"] = json!(true);
    let server = server_of(script(), |_| {}).await;
    let events = server.complete(streamed).await.events();
    for (index, text) in [(0, "Hello é! world"), (1, "Hello é! and!")] {
        let choice = &whole["choices"][index];
        assert_eq!(choice["text"], text);
        let own: Vec<Value> = events.iter().filter(|event| event["choices"][0]["index"] == index).cloned().collect();
        assert_eq!(completion_text(&own), text);
        for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let parts = own.iter().map(|event| event["choices"][0]["logprobs"][list].as_array().unwrap().clone());
            assert_eq!(json!(parts.flatten().collect::<Vec<_>>()), choice["logprobs"][list], "{list}");
        }
    }
    let asks: Vec<i32> = server.worker.samplings().iter().map(|sampling| sampling.num_prompt_logprobs).collect();
    assert_eq!(asks, [1, -1], "the first choice's prompt is the second's");
}

#[tokio::test]
async fn a_prompt_that_was_served_before_is_scored_again() {
    let server = server(&[END]).await;
    let prompt = "Hello world".repeat(40);
    let score = json!({ "prompt": prompt, "echo": true, "logprobs": 0, "max_tokens": 0 });
    server.complete(json!({ "prompt": prompt })).await.ok();
    for _ in 0..2 {
        let answer = server.complete(score.clone()).await.ok();
        let logprobs = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
        assert!(logprobs.len() >= 80 && logprobs[1..].iter().all(Value::is_number), "{logprobs:?}");
        assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    }
}

#[tokio::test]
async fn a_group_lost_amid_the_prompt_changes_nothing_of_its_logprobs() {
    let prompt: Vec<u32> = (0..1200).map(|at| at % 300).collect();
    let options = json!({ "prompt": prompt, "echo": true, "logprobs": 1, "n": 3, "max_tokens": 4 });
    let undisturbed = server(&[HELLO, WORLD]).await.complete(options.clone()).await.ok();
    for step_id in [1, 3] {
        let faults = vec![Fault::Step { incarnation: 1, rank: 0, step_id, kind: StepFault::Exit }];
        let server = server_of(FakeScript { faults, ..FakeScript::sequence([HELLO, WORLD]) }, |_| {}).await;
        let answer = server.complete(options.clone()).await.ok();
        assert_eq!(answer["choices"], undisturbed["choices"]);
        assert_eq!(answer["choices"][2]["logprobs"]["tokens"].as_array().unwrap().len(), 1204);
    }
}

#[tokio::test]
async fn a_worker_that_scores_no_prompts_is_not_asked_to() {
    let features = vec!["logprobs".to_owned()];
    let server = server_of(FakeScript { features, ..FakeScript::sequence([END]) }, |_| {}).await;
    let answer = server.complete(json!({ "echo": true, "logprobs": 1 })).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.message(), "this worker does not offer `prompt_logprobs`");
    server.complete(json!({ "echo": true })).await.ok();
}
