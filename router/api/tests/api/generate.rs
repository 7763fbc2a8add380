//! `POST /generate`.

use serde_json::{Value, json};

use forebay_engine::fake_worker::{FakeScript, FakeTokens};

use crate::support::{AND, BANG, END, HELLO, WORLD, server, server_of};

#[tokio::test]
async fn the_answer_is_an_object_with_the_text_alone_unless_details_are_asked_for() {
    let server = server(&[HELLO, WORLD, BANG]).await;
    let answer = server.generate("the", json!({ "max_new_tokens": 3 })).await;
    assert_eq!(answer.ok(), json!({ "generated_text": "Hello world!" }));
}

#[tokio::test]
async fn details_hold_every_token_and_a_greedy_choice_has_no_seed() {
    let server = server(&[HELLO, WORLD, END]).await;
    let answer = server.generate("the", json!({ "max_new_tokens": 9, "details": true, "top_n_tokens": 2 })).await;
    answer.ok();
    insta::assert_snapshot!(serde_json::to_string_pretty(&answer.json()).unwrap());
}

#[tokio::test]
async fn without_parameters_it_samples_and_with_empty_ones_it_is_greedy() {
    let server = server(&[END]).await;
    server.post("/generate", json!({ "inputs": "a" })).await.ok();
    server.post("/generate", json!({ "inputs": "a", "parameters": null })).await.ok();
    for parameters in [json!({}), json!({ "temperature": 1.0 }), json!({ "do_sample": false, "seed": 5 })] {
        server.generate("a", parameters).await.ok();
    }
    let temperatures: Vec<f32> = server.worker.samplings().iter().map(|sampling| sampling.temperature).collect();
    assert_eq!(temperatures, [1.0, 1.0, 0.0, 0.0, 0.0]);
}

#[tokio::test]
async fn any_option_of_sampling_switches_sampling_on() {
    let server = server(&[END]).await;
    for parameters in [
        json!({ "do_sample": true }),
        json!({ "top_k": 5 }),
        json!({ "top_p": 0.5 }),
        json!({ "temperature": 0.5, "repetition_penalty": 1.5, "seed": 7 }),
    ] {
        server.generate("a", parameters).await.ok();
    }
    let samplings = server.worker.samplings();
    assert_eq!(samplings.iter().map(|s| s.temperature).collect::<Vec<_>>(), [1.0, 1.0, 1.0, 0.5]);
    assert_eq!((samplings[1].top_k, samplings[2].top_p), (5, 0.5));
    assert_eq!((samplings[3].repetition_penalty, samplings[3].seed), (1.5, 7));
    assert_ne!(samplings[0].seed, samplings[1].seed, "unseeded requests get a seed each");
}

#[tokio::test]
async fn the_seed_that_was_used_is_reported() {
    let server = server(&[END]).await;
    let details = |answer: Value| answer["details"]["seed"].clone();
    let given = server.generate("a", json!({ "do_sample": true, "seed": 7, "details": true })).await;
    assert_eq!(details(given.ok()), json!(7));
    let made = server.generate("a", json!({ "do_sample": true, "details": true })).await;
    assert_eq!(details(made.ok()), json!(server.worker.samplings()[1].seed));
}

#[tokio::test]
async fn a_stop_string_inside_tokens_ends_the_text_right_after_it() {
    let server = server(&[HELLO, WORLD, AND]).await;
    let parameters = json!({ "max_new_tokens": 9, "stop": ["lo w"], "details": true });
    let answer = server.generate("a", parameters).await.ok();
    assert_eq!(answer["generated_text"], "Hello w");
    assert_eq!(answer["details"]["finish_reason"], "stop_sequence");
    assert_eq!(answer["details"]["generated_tokens"], 2);
}

#[tokio::test]
async fn the_length_is_tested_before_the_end_token() {
    let server = server(&[HELLO, END]).await;
    for (max_new_tokens, reason) in [(1, "length"), (2, "length"), (3, "eos_token")] {
        let parameters = json!({ "max_new_tokens": max_new_tokens, "details": true });
        assert_eq!(server.generate("a", parameters).await.ok()["details"]["finish_reason"], reason);
    }
}

#[tokio::test]
async fn truncate_keeps_the_last_tokens_and_full_text_begins_with_the_prompt() {
    let server = server(&[HELLO]).await;
    let parameters = json!({ "max_new_tokens": 1, "truncate": 2, "return_full_text": true });
    let answer = server.generate("Hello world and!", parameters).await.ok();
    assert_eq!(answer["generated_text"], "Hello world and!Hello");
    assert_eq!(server.last_prompt(), [AND, BANG]);
}

#[tokio::test]
async fn prompt_logprobs_come_as_prefill_and_the_first_is_null() {
    let server = server(&[HELLO]).await;
    let parameters = json!({ "max_new_tokens": 1, "decoder_input_details": true });
    let prefill = server.generate("Hello world and", parameters).await.ok()["details"]["prefill"].clone();
    let texts: Vec<&str> = prefill.as_array().unwrap().iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["Hello", " world", " and"]);
    assert!(prefill[0]["logprob"].is_null());
    assert!(prefill[1]["logprob"].is_number() && prefill[2]["logprob"].is_number());
}

#[tokio::test]
async fn a_request_without_a_bound_may_fill_the_context() {
    let server = server(&[HELLO]).await;
    let answer = server.generate("a", json!({ "details": true })).await.ok();
    assert_eq!(answer["details"]["generated_tokens"], 2047);
}

/// As `text_generation.Client` and `huggingface_hub.InferenceClient` send it.
#[tokio::test]
async fn the_bodies_of_clients_with_all_their_nulls_pass() {
    let server = server(&[HELLO]).await;
    let parameters = json!({
        "do_sample": false, "max_new_tokens": 1, "repetition_penalty": null, "frequency_penalty": null,
        "return_full_text": false, "stop": [], "seed": null, "temperature": null, "top_k": null, "top_p": null,
        "truncate": null, "typical_p": null, "best_of": null, "watermark": false, "details": true,
        "decoder_input_details": false, "top_n_tokens": null, "grammar": null, "adapter_id": null,
    });
    server.generate("a", parameters).await.ok();
    let nulls = json!({ "max_new_tokens": 1, "do_sample": null, "watermark": null, "details": null, "stop": null });
    server.generate("a", nulls).await.ok();
}

#[tokio::test]
async fn what_is_not_served_is_refused_by_name() {
    let server = server(&[HELLO]).await;
    for (name, value) in [("grammar", json!({ "type": "regex", "value": "a" })), ("adapter_id", json!("mine"))] {
        let answer = server.generate("a", json!({ name: value })).await;
        assert_eq!(answer.status, 422);
        assert!(answer.body.contains(&format!("`{name}` is not supported")), "{}", answer.body);
    }
    let answer = server.generate("a", json!({ "max_tokens": 5 })).await;
    assert_eq!(answer.json()["error"], "Input validation error: unknown field `parameters.max_tokens`");
}

#[tokio::test]
async fn the_best_of_several_has_the_highest_logprob_per_token_and_the_others_are_told() {
    let tokens = FakeTokens::InTurn(vec![vec![HELLO], vec![WORLD, END]]);
    let server = server_of(FakeScript { tokens, ..FakeScript::default() }, |_| {}).await;
    let parameters = json!({ "best_of": 2, "do_sample": true, "max_new_tokens": 3, "details": true });
    let answer = server.generate("a", parameters).await;
    assert_eq!(answer.headers["x-generated-tokens"], "2");
    let answer = answer.ok();
    assert_eq!(answer["generated_text"], " world");
    let others = &answer["details"]["best_of_sequences"];
    assert_eq!(others.as_array().unwrap().len(), 1);
    assert_eq!(others[0]["generated_text"], "HelloHelloHello");
    assert_eq!(others[0]["finish_reason"], "length");
    let seeds: Vec<u64> = server.worker.samplings().iter().map(|sampling| sampling.seed).collect();
    assert_eq!([&others[0]["seed"], &answer["details"]["seed"]], [&json!(seeds[0]), &json!(seeds[1])]);
    assert_ne!(seeds[0], seeds[1]);
    let alone = server.generate("a", json!({ "max_new_tokens": 1, "details": true })).await.ok();
    assert!(alone["details"].get("best_of_sequences").is_none());
}

#[tokio::test]
async fn the_prompt_of_several_is_scored_once_and_told_with_each() {
    let tokens = FakeTokens::InTurn(vec![vec![HELLO], vec![WORLD]]);
    let server = server_of(FakeScript { tokens, ..FakeScript::default() }, |_| {}).await;
    let parameters = json!({ "best_of": 2, "do_sample": true, "max_new_tokens": 1, "decoder_input_details": true });
    let details = server.generate("Hello and", parameters).await.ok()["details"].clone();
    assert_eq!(details["prefill"][1], json!({ "id": AND, "text": " and", "logprob": -0.625 }));
    assert_eq!(details["best_of_sequences"][0]["prefill"], details["prefill"]);
    let asks: Vec<i32> = server.worker.samplings().iter().map(|sampling| sampling.num_prompt_logprobs).collect();
    assert_eq!(asks, [0, -1]);
}

#[tokio::test]
async fn the_best_is_found_without_details_too() {
    let tokens = FakeTokens::InTurn(vec![vec![HELLO], vec![WORLD]]);
    let server = server_of(FakeScript { tokens, ..FakeScript::default() }, |_| {}).await;
    let answer = server.generate("a", json!({ "best_of": 2, "do_sample": true, "max_new_tokens": 1 })).await;
    assert_eq!(answer.ok(), json!({ "generated_text": " world" }));
}

#[tokio::test]
async fn best_of_zero_is_one_and_a_temperature_of_one_passes_for_sampling_as_in_tgi() {
    let server = server(&[HELLO]).await;
    let ask = async |parameters| server.generate("a", parameters).await.ok()["details"].clone();
    let alone = ask(json!({ "best_of": 0, "max_new_tokens": 1, "details": true })).await;
    assert!(alone.get("best_of_sequences").is_none());
    let both = ask(json!({ "best_of": 2, "temperature": 1.0, "max_new_tokens": 1, "details": true })).await;
    assert_eq!(both["best_of_sequences"][0]["generated_text"], "Hello");
    assert!(both["seed"].is_null(), "both are greedy");
    let streamed = json!({ "inputs": "a", "parameters": { "best_of": 0 } });
    let message = server.post("/generate_stream", streamed).await.message();
    assert_eq!(message, "Input validation error: `best_of` != 1 is not supported when streaming tokens");
}

#[tokio::test]
async fn ties_with_the_last_alternative_are_listed_beyond_the_number_asked_for() {
    let script = FakeScript { num_ties: 2, ..FakeScript::sequence([HELLO]) };
    let server = server_of(script, |_| {}).await;
    let answer = server.generate("a", json!({ "max_new_tokens": 1, "details": true, "top_n_tokens": 2 })).await.ok();
    let top = answer["details"]["top_tokens"][0].as_array().unwrap().clone();
    assert_eq!(top.len(), 4);
    assert_eq!(top[1]["logprob"], top[3]["logprob"]);
}
