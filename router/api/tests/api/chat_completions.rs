//! `POST /v1/chat/completions`.

use forebay_engine::fake_worker::{FakeScript, FakeTokens, Fault};
use serde_json::{Value, json};

use crate::support::{AND, BANG, END, GRIN_HEAD, GRIN_TAIL, HELLO, MODEL_ID, WORLD, chat_text, server, server_of};

#[tokio::test]
async fn a_whole_answer_looks_like_openais() {
    let server = server(&[HELLO, WORLD, END]).await;
    let answer = server.chat(json!({ "model": "mine", "max_tokens": 9 })).await;
    answer.ok();
    insta::assert_snapshot!(answer.stable_body());
}

#[tokio::test]
async fn a_stream_opens_with_the_role_skips_half_characters_and_ends_with_done() {
    let server = server(&[HELLO, GRIN_HEAD, GRIN_TAIL, END]).await;
    let answer = server.chat(json!({ "stream": true, "stream_options": { "include_usage": true } })).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    insta::assert_snapshot!(answer.stable_body());
}

#[tokio::test]
async fn without_include_usage_no_chunk_brings_usage() {
    let server = server(&[HELLO, END]).await;
    let events = server.chat(json!({ "stream": true, "stream_options": null })).await.events();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk["choices"].as_array().unwrap().len() == 1));
}

#[tokio::test]
async fn the_template_writes_the_prompt() {
    let server = server(&[END]).await;
    server.chat(json!({})).await.ok();
    // <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n
    assert_eq!(server.last_prompt(), [306, 287, 198, HELLO, END, 198, 306, 299, 198]);
}

#[tokio::test]
async fn a_chat_without_an_opened_answer_was_refused() {
    let server = server(&[END]).await;
    server.chat(json!({ "add_generation_prompt": false })).await.ok();
    assert_eq!(server.last_prompt(), [306, 287, 198, HELLO, END, 198]);
}

#[tokio::test]
async fn a_last_message_of_the_assistant_is_continued() {
    let server = server(&[END]).await;
    let messages = json!([{ "role": "user", "content": "Hello" }, { "role": "assistant", "content": "Hello" }]);
    server.chat(json!({ "messages": messages })).await.ok();
    assert_eq!(server.last_prompt(), [306, 287, 198, HELLO, END, 198, 306, 299, 198, HELLO]);
    server.chat(json!({ "messages": messages, "add_generation_prompt": true })).await.ok();
    assert_eq!(server.last_prompt().last(), Some(&198));
    let both = json!({ "messages": messages, "add_generation_prompt": true, "continue_final_message": true });
    assert_eq!(server.chat(both).await.status, 400);
}

#[tokio::test]
async fn it_samples_at_one_unless_told_otherwise() {
    let server = server(&[END]).await;
    for options in
        [json!({}), json!({ "temperature": 0 }), json!({ "temperature": 0.5, "seed": -1 }), json!({ "top_p": 0 })]
    {
        server.chat(options).await.ok();
    }
    let samplings = server.worker.samplings();
    assert_eq!(samplings.iter().map(|s| s.temperature).collect::<Vec<_>>(), [1.0, 0.0, 0.5, 0.0]);
    assert_eq!(samplings[2].seed, u64::MAX);
}

#[tokio::test]
async fn a_stop_string_is_trimmed_even_across_tokens_and_nothing_of_it_is_streamed() {
    let server = server(&[HELLO, WORLD, AND]).await;
    for stop in [json!("o wor"), json!(["xyz", "o wor"])] {
        let whole = server.chat(json!({ "max_tokens": 9, "stop": stop })).await.ok();
        assert_eq!(whole["choices"][0]["message"]["content"], "Hell");
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        assert_eq!(whole["usage"]["completion_tokens"], 2);
        let events = server.chat(json!({ "max_tokens": 9, "stop": stop, "stream": true })).await.events();
        assert_eq!(chat_text(&events), "Hell");
    }
}

#[tokio::test]
async fn text_held_back_for_a_stop_is_shown_when_the_generation_ends_otherwise() {
    let server = server(&[HELLO, WORLD]).await;
    let whole = server.chat(json!({ "max_tokens": 2, "stop": "world!" })).await.ok();
    assert_eq!(whole["choices"][0]["message"]["content"], "Hello world");
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn an_end_token_on_the_last_place_is_stop_and_can_be_ignored() {
    let server = server(&[HELLO, END]).await;
    let reason = |answer: Value| answer["choices"][0]["finish_reason"].clone();
    assert_eq!(reason(server.chat(json!({ "max_tokens": 2 })).await.ok()), "stop");
    let ignored = server.chat(json!({ "max_tokens": 5, "ignore_eos": true })).await.ok();
    assert_eq!(ignored["usage"]["completion_tokens"], 5);
    assert_eq!(ignored["choices"][0]["message"]["content"], "HelloHelloHello");
    assert_eq!(reason(ignored), "length");
}

#[tokio::test]
async fn logprobs_come_with_bytes_and_alternatives() {
    let server = server(&[HELLO, BANG]).await;
    let options = json!({ "max_tokens": 2, "logprobs": true, "top_logprobs": 2 });
    let content = server.chat(options.clone()).await.ok()["choices"][0]["logprobs"]["content"].clone();
    assert_eq!(content.as_array().unwrap().len(), 2);
    assert_eq!(content[0]["token"], "Hello");
    assert_eq!(content[0]["bytes"], json!(b"Hello"));
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(server.worker.samplings()[0].logprobs_kind, 0, "the model's own");
    let mut streamed = options;
    streamed["stream"] = json!(true);
    let events = server.chat(streamed).await.events();
    assert_eq!(streamed_logprobs(&events), content);
}

/// All entries of a stream's chunks.
fn streamed_logprobs(events: &[Value]) -> Value {
    let lists = events.iter().filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array().cloned());
    lists.flatten().collect()
}

#[tokio::test]
async fn half_characters_have_their_bytes_and_come_with_the_character() {
    let server = server(&[GRIN_HEAD, GRIN_TAIL, END]).await;
    let options = json!({ "logprobs": true });
    let content = server.chat(options.clone()).await.ok()["choices"][0]["logprobs"]["content"].clone();
    let bytes: Vec<&Value> = content.as_array().unwrap().iter().map(|entry| &entry["bytes"]).collect();
    let grin = "😀".as_bytes();
    assert_eq!(bytes, [&json!(grin[..3]), &json!(grin[3..]), &json!(b"<|im_end|>")]);
    let mut streamed = options;
    streamed["stream"] = json!(true);
    let events = server.chat(streamed).await.events();
    assert_eq!(streamed_logprobs(&events), content);
    let with_text = events.iter().find(|event| event["choices"][0]["delta"]["content"] == "😀").unwrap();
    assert_eq!(with_text["choices"][0]["logprobs"]["content"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn logprobs_end_where_the_stop_is_trimmed() {
    let server = server(&[HELLO, WORLD, AND]).await;
    for (stop, tokens) in [("o wor", vec!["Hello"]), (" wor", vec!["Hello"]), ("d", vec!["Hello", " world"])] {
        let options = json!({ "stop": stop, "logprobs": true, "max_tokens": 9 });
        let content = server.chat(options.clone()).await.ok()["choices"][0]["logprobs"]["content"].clone();
        let shown: Vec<&str> =
            content.as_array().unwrap().iter().map(|entry| entry["token"].as_str().unwrap()).collect();
        assert_eq!(shown, tokens, "{stop}");
        let mut streamed = options;
        streamed["stream"] = json!(true);
        assert_eq!(streamed_logprobs(&server.chat(streamed).await.events()), content, "{stop}");
    }
}

#[tokio::test]
async fn neutral_values_nulls_and_any_model_name_pass() {
    let server = server(&[END]).await;
    let neutral = json!({
        "model": "dummy", "max_tokens": 2, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {},
        "logprobs": false, "top_logprobs": 0, "n": 1, "top_p": 1, "temperature": 1, "stop": [], "stream": false,
        "tools": [], "tool_choice": "none", "response_format": { "type": "text" }, "user": "u", "store": false,
        "metadata": { "a": "b" }, "service_tier": "auto", "parallel_tool_calls": true, "top_k": -1,
        "repetition_penalty": 1, "min_tokens": 0, "chat_template_kwargs": {}, "modalities": ["text"],
    });
    assert_eq!(server.chat(neutral.clone()).await.ok()["model"], "dummy");
    let nulls: serde_json::Map<String, Value> =
        neutral.as_object().unwrap().keys().map(|name| (name.clone(), Value::Null)).collect();
    assert_eq!(server.chat(nulls.into()).await.ok()["model"], MODEL_ID);
    assert_eq!(server.chat(json!({ "model": "tgi" })).await.ok()["model"], MODEL_ID);
}

#[tokio::test]
async fn bad_fields_are_400_and_named() {
    let server = server(&[HELLO]).await;
    for (options, param) in [
        (json!({ "temperature": 2.5 }), "temperature"),
        (json!({ "top_p": 1.5 }), "top_p"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "max_tokens": 3, "max_completion_tokens": 4 }), "max_completion_tokens"),
        (json!({ "max_tokens": 4096 }), "max_tokens"),
        (json!({ "max_tokens": 3, "min_tokens": 4 }), "min_tokens"),
        (json!({ "min_tokens": 2048 }), "min_tokens"),
        (json!({ "stop": ["a", "b", "c", "d", "e"] }), "stop"),
        (json!({ "stop": 5 }), "stop"),
        (json!({ "seed": 1.5 }), "seed"),
        (json!({ "top_logprobs": 21, "logprobs": true }), "top_logprobs"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "stream_options": {} }), "stream_options"),
        (json!({ "n": 0 }), "n"),
        (json!({ "n": 129 }), "n"),
        (json!({ "tools": [{ "type": "function" }] }), "tools"),
        (json!({ "logit_bias": { "5": 101 } }), "logit_bias"),
        (json!({ "response_format": { "type": "json_object" } }), "response_format"),
        (json!({ "presence_penalty": 2.5 }), "presence_penalty"),
        (json!({ "surprise": 1 }), "surprise"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": null }), "messages"),
    ] {
        let answer = server.chat(options.clone()).await;
        assert_eq!(answer.status, 400, "{options}");
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.body);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains(&format!("`{param}`")), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_context_that_is_too_small_has_openais_code() {
    let server = server(&[HELLO]).await;
    let answer = server.chat(json!({ "max_tokens": 2048 })).await;
    assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
}

#[tokio::test]
async fn min_tokens_reaches_the_worker_with_the_end_tokens() {
    let server = server(&[HELLO, HELLO, HELLO, END]).await;
    server.chat(json!({ "min_tokens": 2 })).await.ok();
    let sampling = server.worker.samplings().remove(0);
    assert_eq!(sampling.min_new_tokens, 2);
    assert!(sampling.end_token_ids.chunks(4).any(|id| id == END.to_le_bytes()));
}

/// The scheduler ended it there, where its reader waited for more: an incomplete generation.
#[tokio::test]
async fn an_end_token_on_the_last_place_of_the_minimum_does_not_end_it() {
    let server = server(&[HELLO, END, WORLD, END]).await;
    let answer = server.chat(json!({ "min_tokens": 2 })).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello world");
    assert_eq!(answer["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn a_stop_string_ends_nothing_before_min_tokens() {
    let server = server(&[HELLO, WORLD, HELLO, WORLD]).await;
    for (min_tokens, stop, text, num_tokens) in [
        (0, "Hello", "", 1),
        (1, "Hello", "Hello world", 3),
        (1, "o w", "Hell", 2),
        (2, "o w", "Hello worldHell", 4),
        (4, "d", "Hello worldHello worldHello worl", 6),
    ] {
        let options = json!({ "min_tokens": min_tokens, "stop": stop });
        let answer = server.chat(options.clone()).await.ok();
        let context = format!("{options}: {answer}");
        assert_eq!(answer["choices"][0]["message"]["content"], text, "{context}");
        assert_eq!(answer["usage"]["completion_tokens"], num_tokens, "{context}");
        let mut streamed = options;
        streamed["stream"] = json!(true);
        assert_eq!(chat_text(&server.chat(streamed).await.events()), text, "{context}");
    }
    let kept = json!({ "min_tokens": 1, "stop": ["Hello", "o w"], "include_stop_str_in_output": true });
    assert_eq!(server.chat(kept).await.ok()["choices"][0]["message"]["content"], "Hello w");
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_the_error_and_without_done() {
    let fault = Fault::Sequence { token_id: WORLD, kind: 2, message: "it broke".to_owned() };
    let script = FakeScript { faults: vec![fault], ..FakeScript::sequence([HELLO, WORLD]) };
    let server = server_of(script, |_| {}).await;
    let answer = server.chat(json!({ "max_tokens": 9, "stream": true })).await;
    let last = answer.events().pop().unwrap();
    assert!(last["error"]["message"].is_string(), "{last}");
    assert_eq!(last["error"]["type"], "server_error");
    assert!(!answer.body.contains("[DONE]"));
}

#[tokio::test]
async fn special_tokens_and_the_stop_are_shown_to_those_who_ask() {
    let server = server(&[HELLO, END, WORLD]).await;
    let content = |answer: Value| answer["choices"][0]["message"]["content"].clone();
    let shown = json!({ "max_tokens": 3, "ignore_eos": true, "skip_special_tokens": false });
    assert_eq!(content(server.chat(shown).await.ok()), "Hello<|im_end|> world");
    let kept = json!({ "ignore_eos": true, "stop": "wor", "include_stop_str_in_output": true });
    assert_eq!(content(server.chat(kept).await.ok()), "Hello wor");
}

#[tokio::test]
async fn choices_have_seeds_of_their_own_and_usage_counts_the_prompt_once() {
    let tokens = FakeTokens::InTurn(vec![vec![HELLO, END], vec![WORLD, AND, END], vec![END]]);
    let server = server_of(FakeScript { tokens, ..FakeScript::default() }, |_| {}).await;
    let answer = server.chat(json!({ "n": 3, "seed": 7 })).await.ok();
    let choices = answer["choices"].as_array().unwrap();
    let of = |pointer: &str| choices.iter().map(|choice| choice.pointer(pointer).unwrap().clone()).collect::<Vec<_>>();
    assert_eq!(of("/index"), [0, 1, 2]);
    assert_eq!(of("/message/content"), ["Hello", " world and", ""]);
    assert_eq!(of("/finish_reason"), ["stop", "stop", "stop"]);
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(9), &json!(6)));
    let mut seeds: Vec<u64> = server.worker.samplings().iter().map(|sampling| sampling.seed).collect();
    assert_eq!(seeds[0], 7, "the first choice is the one that the request would get alone");
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 3);
}

#[tokio::test]
async fn streamed_choices_carry_their_index_and_end_together() {
    let tokens = FakeTokens::InTurn(vec![vec![HELLO, END], vec![WORLD, AND, BANG, END]]);
    let server = server_of(FakeScript { tokens, ..FakeScript::default() }, |_| {}).await;
    let options = json!({ "n": 2, "stream": true, "stream_options": { "include_usage": true } });
    let events = server.chat(options).await.events();
    for (index, text) in [(0, "Hello"), (1, " world and!")] {
        let own: Vec<Value> = events.iter().filter(|event| event["choices"][0]["index"] == index).cloned().collect();
        assert_eq!(chat_text(&own), text);
        assert_eq!(own.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }
    assert_eq!(events.iter().filter(|event| *event == "[DONE]").count(), 1);
    let usage = &events[events.len() - 2];
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn prompt_tokens_found_in_the_cache_are_told() {
    let server = server(&[END]).await;
    let message = "Hello ".repeat(40);
    let options = json!({ "messages": [{ "role": "user", "content": message }] });
    let cached = |answer: Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached(server.chat(options.clone()).await.ok()), 0);
    assert!(cached(server.chat(options).await.ok()) >= 32);
}
