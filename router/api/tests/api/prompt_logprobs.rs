//! vLLM's `prompt_logprobs`, on both routes of `OpenAI`.

use serde_json::{Value, json};

use crate::support::{AND, END, HELLO, WORLD, server};

#[tokio::test]
async fn each_prompt_token_but_the_first_has_itself_and_the_best_by_id() {
    let server = server(&[END]).await;
    let options = json!({ "prompt": [[HELLO, WORLD], [AND]], "prompt_logprobs": 2, "n": 2 });
    let answer = server.complete(options).await.ok();
    let expected = json!([null, {
        "267": { "logprob": -0.5, "rank": 1, "decoded_token": " world" },
        "268": { "logprob": -1.5, "rank": 2, "decoded_token": " t" },
    }]);
    let lists: Vec<&Value> = (0..4).map(|index| &answer["choices"][index]["prompt_logprobs"]).collect();
    assert_eq!(lists, [&expected, &expected, &json!([null]), &json!([null])]);
    assert!(answer["choices"][0]["logprobs"].is_null());
}

#[tokio::test]
async fn a_chat_tells_them_once_for_all_choices() {
    let server = server(&[END]).await;
    let answer = server.chat(json!({ "prompt_logprobs": 0, "n": 2 })).await.ok();
    let list = answer["prompt_logprobs"].as_array().unwrap();
    assert_eq!(list.len(), server.last_prompt().len());
    assert!(list[0].is_null());
    assert_eq!(list[3], json!({ "262": { "logprob": -0.875, "rank": 1, "decoded_token": "Hello" } }));
    assert!(answer["choices"][0].get("prompt_logprobs").is_none());
}

#[tokio::test]
async fn nobody_gets_them_unasked() {
    let server = server(&[END]).await;
    for options in [json!({}), json!({ "prompt_logprobs": null, "stream": true })] {
        for answer in [server.chat(options.clone()).await, server.complete(options).await] {
            assert_eq!(answer.status, 200);
            assert!(!answer.body.contains("prompt_logprobs"), "{}", answer.body);
        }
    }
    assert!(server.worker.samplings().iter().all(|sampling| sampling.num_prompt_logprobs == -1));
}

#[tokio::test]
async fn the_prompt_is_scored_once_for_echo_and_prompt_logprobs_together() {
    let server = server(&[END]).await;
    let options =
        json!({ "prompt": "Hello world", "echo": true, "logprobs": 1, "prompt_logprobs": 3, "max_tokens": 0 });
    let choice = server.complete(options).await.ok()["choices"][0].clone();
    assert_eq!(choice["logprobs"]["top_logprobs"][1], json!({ " world": -0.5 }));
    assert_eq!(choice["prompt_logprobs"][1].as_object().unwrap().len(), 3);
    assert_eq!(server.worker.samplings()[0].num_prompt_logprobs, 3);
}

#[tokio::test]
async fn an_answer_cannot_be_made_to_hold_any_number_of_them() {
    let server = server(&[END]).await;
    let options = json!({ "prompt": vec![HELLO; 2000], "prompt_logprobs": 20, "n": 13, "max_tokens": 1 });
    let answer = server.complete(options).await;
    assert_eq!(answer.status, 400);
    let message = "an answer may hold up to 524288 log-probabilities of prompt tokens; 2000 tokens with 20 alternatives \
                   each in 13 choices are 546000";
    assert_eq!(answer.message(), message);
}

#[tokio::test]
async fn what_cannot_be_told_is_refused() {
    let server = server(&[END]).await;
    for (options, message) in [
        (json!({ "prompt_logprobs": -1 }), "`prompt_logprobs` must be between 0 and 20. Given: -1"),
        (json!({ "prompt_logprobs": 21 }), "`prompt_logprobs` must be between 0 and 20. Given: 21"),
        (json!({ "prompt_logprobs": 0, "stream": true }), "`prompt_logprobs` is not available when `stream` is true"),
        (json!({ "prompt_logprobs": true }), "`prompt_logprobs`: invalid type: boolean `true`, expected i64"),
    ] {
        for answer in [server.chat(options.clone()).await, server.complete(options.clone()).await] {
            assert_eq!((answer.status.as_u16(), answer.message().as_str()), (400, message));
            assert_eq!(answer.json()["error"]["param"], "prompt_logprobs");
        }
    }
}
