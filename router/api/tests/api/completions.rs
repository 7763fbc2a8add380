//! `POST /v1/completions`.

use forebay_engine::fake_worker::{FakeScript, FakeTokens};
use serde_json::{Value, json};

use crate::support::{AND, BANG, END, GRIN_HEAD, GRIN_TAIL, HELLO, WORLD, completion_text, server, server_of};

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
        (json!({ "prompt": ["a", "b", "c", "d", "e"] }), "prompt"),
        (json!({ "prompt": ["a", 5] }), "prompt"),
        (json!({ "prompt": ["a", ""] }), "prompt"),
        (json!({ "prompt": ["a", "b"], "n": 65 }), "n"),
        (json!({ "prompt": [1, "b"] }), "prompt"),
        (json!({ "prompt": [1024] }), "prompt"),
        (json!({ "prompt": null }), "prompt"),
        (json!({ "suffix": "x" }), "suffix"),
        (json!({ "echo": "yes" }), "echo"),
        (json!({ "best_of": 0 }), "best_of"),
        (json!({ "best_of": 2, "n": 3 }), "best_of"),
        (json!({ "best_of": 129 }), "best_of"),
        (json!({ "best_of": 65, "prompt": ["a", "b"] }), "best_of"),
        (json!({ "best_of": 2, "stream": true }), "best_of"),
        (json!({ "logprobs": 6 }), "logprobs"),
        (json!({ "messages": [] }), "messages"),
    ] {
        let answer = server.complete(options.clone()).await;
        assert_eq!(answer.status, 400, "{options}");
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.body);
    }
    server.complete(json!({ "max_tokens": 1, "best_of": 1, "echo": false, "suffix": null, "n": 1 })).await.ok();
    server.complete(json!({ "max_tokens": 1, "best_of": 2, "n": 2, "stream": true })).await.events();
}

#[tokio::test]
async fn the_best_of_each_prompt_come_best_first_and_all_tokens_are_counted() {
    // Means: -0.875, -0.5, -0.3125, then -0.5, -0.125, -0.5.
    let lists = [vec![HELLO], vec![WORLD, END], vec![BANG, END], vec![WORLD], vec![BANG], vec![END]];
    let script = FakeScript { tokens: FakeTokens::InTurn(lists.to_vec()), ..FakeScript::default() };
    let server = server_of(script, |_| {}).await;
    let options = json!({ "prompt": ["a", "b"], "n": 2, "best_of": 3, "max_tokens": 2 });
    let answer = server.complete(options).await.ok();
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<_> = choices.iter().map(|choice| (choice["index"].as_u64(), choice["text"].as_str())).collect();
    let expected = ["!", " world", "!!", " world world"];
    assert_eq!(texts, expected.iter().zip(0..).map(|(text, index)| (Some(index), Some(*text))).collect::<Vec<_>>());
    assert!(choices.iter().all(|choice| choice["logprobs"].is_null()));
    assert_eq!(answer["usage"]["completion_tokens"], 11);
}

#[tokio::test]
async fn half_characters_go_by_their_bytes_among_logprobs() {
    let server = server(&[GRIN_HEAD, GRIN_TAIL, BANG]).await;
    let choice = server.complete(json!({ "logprobs": 0, "max_tokens": 3 })).await.ok()["choices"][0].clone();
    assert_eq!(choice["text"], "😀!");
    assert_eq!(choice["logprobs"]["tokens"], json!(["bytes:\\xf0\\x9f\\x98", "bytes:\\x80", "!"]));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 0, 1]));
}

/// A stop that is trimmed takes the tokens that it lies in with it, but for one whose text it leaves a part of.
#[tokio::test]
async fn logprobs_end_with_the_text_and_offsets_count_what_is_held_back() {
    let server = server(&[HELLO, WORLD, AND, END]).await;
    for (stop, tokens, offsets) in [
        (json!("o wor"), json!(["Hello"]), json!([0])),
        (json!("Hello world a"), json!([]), json!([])),
        (json!(["d andx", "o!"]), json!(["Hello", " world", " and", "<|im_end|>"]), json!([0, 5, 11, 15])),
    ] {
        let options = json!({ "stop": stop, "logprobs": 0 });
        let whole = server.complete(options.clone()).await.ok()["choices"][0]["logprobs"].clone();
        assert_eq!((&whole["tokens"], &whole["text_offset"]), (&tokens, &offsets));
        let mut streamed = options;
        streamed["stream"] = json!(true);
        let events = server.complete(streamed).await.events();
        let parts = events.iter().filter_map(|event| event["choices"][0]["logprobs"]["tokens"].as_array().cloned());
        assert_eq!(json!(parts.flatten().collect::<Vec<_>>()), tokens);
    }
    let kept = json!({ "stop": "o wor", "logprobs": 0, "include_stop_str_in_output": true });
    let choice = server.complete(kept).await.ok()["choices"][0].clone();
    assert_eq!((&choice["text"], &choice["logprobs"]["tokens"]), (&json!("Hello wor"), &json!(["Hello", " world"])));
}

#[tokio::test]
async fn a_list_of_prompts_gets_its_choices_in_index_order() {
    let tokens = FakeTokens::InTurn(vec![vec![HELLO, END], vec![WORLD, END], vec![AND, END], vec![BANG, END]]);
    let server = server_of(FakeScript { tokens, ..FakeScript::default() }, |_| {}).await;
    let options = json!({ "prompt": ["a a", [HELLO]], "n": 2 });
    let answer = server.complete(options.clone()).await.ok();
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<_> = choices.iter().map(|choice| (choice["index"].as_u64(), choice["text"].as_str())).collect();
    let expected = ["Hello", " world", " and", "!"];
    assert_eq!(texts, expected.iter().zip(0..).map(|(text, index)| (Some(index), Some(*text))).collect::<Vec<_>>());
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(3), &json!(8)));
    let mut streamed = options;
    streamed["stream"] = json!(true);
    let events = server.complete(streamed).await.events();
    for (text, index) in expected.iter().zip(0..) {
        let own: Vec<Value> = events.iter().filter(|event| event["choices"][0]["index"] == index).cloned().collect();
        assert_eq!(completion_text(&own), *text);
    }
    assert_eq!(events.last().unwrap(), "[DONE]");
}
