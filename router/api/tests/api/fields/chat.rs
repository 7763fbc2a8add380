//! `/v1/chat/completions`; the options of sampling stand in its table for both routes of `OpenAI`.

use serde_json::{Value, json};

use super::{Endpoint, Field, answer, field, wire};
use crate::support::END;

const CHAT: Endpoint = Endpoint {
    path: "/v1/chat/completions",
    body: |mut fields| {
        fields.entry("messages").or_insert_with(|| json!([{ "role": "user", "content": "Hello" }]));
        Value::Object(fields)
    },
    bad_status: 400,
};

#[tokio::test]
async fn how_tokens_are_chosen() {
    CHAT.walk(scaled()).await;
    CHAT.walk(named()).await;
}

#[tokio::test]
async fn where_a_text_ends() {
    CHAT.walk(ended()).await;
}

/// Options that are numbers.
#[expect(clippy::too_many_lines, reason = "a table")]
fn scaled() -> Vec<Field> {
    vec![
        field(
            "temperature",
            vec![
                (json!(0), wire(json!({ "temperature": 0.0 }))),
                (json!(1), wire(json!({}))),
                (json!(2), wire(json!({ "temperature": 2.0 }))),
            ],
            vec![
                (json!(-0.5), "`temperature` must be >= 0 and <= 2"),
                (json!(2.5), "`temperature` must be >= 0 and <= 2"),
                (json!("hot"), "`temperature`: invalid type"),
            ],
        ),
        field(
            "top_p",
            vec![
                (json!(0), wire(json!({ "temperature": 0.0 }))),
                (json!(0.5), wire(json!({ "top_p": 0.5 }))),
                (json!(1), wire(json!({}))),
            ],
            vec![(json!(1.5), "`top_p` must be >= 0 and <= 1"), (json!([]), "`top_p`: invalid type")],
        ),
        field(
            "top_k",
            vec![(json!(-1), wire(json!({}))), (json!(0), wire(json!({}))), (json!(5), wire(json!({ "top_k": 5 })))],
            vec![(json!(-2), "`top_k` must be positive, or 0 or -1 for off"), (json!(1.5), "`top_k`: invalid type")],
        ),
        field(
            "typical_p",
            vec![(json!(0.5), wire(json!({ "typical_p": 0.5 }))), (json!(1), wire(json!({})))],
            vec![(json!(0), "`typical_p` must be > 0 and <= 1"), (json!("x"), "`typical_p`: invalid type")],
        ),
        field(
            "min_p",
            vec![(json!(0), wire(json!({}))), (json!(1), wire(json!({ "min_p": 1.0 })))],
            vec![
                (json!(-0.5), "`min_p` must be >= 0 and <= 1"),
                (json!(1.5), "`min_p` must be >= 0 and <= 1"),
                (json!(true), "`min_p`: invalid type"),
            ],
        ),
        field(
            "repetition_penalty",
            vec![(json!(1.5), wire(json!({ "repetition_penalty": 1.5 })))],
            vec![
                (json!(0), "`repetition_penalty` must be strictly positive"),
                (json!({}), "`repetition_penalty`: invalid type"),
            ],
        ),
        field(
            "frequency_penalty",
            vec![
                (json!(0), wire(json!({}))),
                (json!(-2), wire(json!({ "frequency_penalty": -2.0 }))),
                (json!(2), wire(json!({ "frequency_penalty": 2.0 }))),
            ],
            vec![
                (json!(-2.5), "`frequency_penalty` must be >= -2 and <= 2"),
                (json!(2.5), "`frequency_penalty` must be >= -2 and <= 2"),
                (json!("x"), "`frequency_penalty`: invalid type"),
            ],
        ),
        field(
            "presence_penalty",
            vec![
                (json!(0), wire(json!({}))),
                (json!(-2), wire(json!({ "presence_penalty": -2.0 }))),
                (json!(2), wire(json!({ "presence_penalty": 2.0 }))),
            ],
            vec![
                (json!(-2.5), "`presence_penalty` must be >= -2 and <= 2"),
                (json!(2.5), "`presence_penalty` must be >= -2 and <= 2"),
                (json!("x"), "`presence_penalty`: invalid type"),
            ],
        ),
        field(
            "seed",
            vec![(json!(7), wire(json!({ "small_seed": 7 }))), (json!(-1), wire(json!({})))],
            vec![(json!(1.5), "`seed` must be a 64-bit integer. Given: 1.5")],
        ),
    ]
}

/// Options that name tokens.
fn named() -> Vec<Field> {
    vec![
        field(
            "logit_bias",
            vec![
                (json!({}), wire(json!({}))),
                (json!([]), wire(json!({}))),
                (
                    json!({ "1023": -100, "0": 0.5 }),
                    wire(json!({ "logit_bias_ids": [1023, 0], "logit_bias_values": [-100.0, 0.5] })),
                ),
            ],
            vec![
                (json!({ "1024": 1 }), "`logit_bias` holds token id `1024`; the vocabulary has 1024"),
                (json!({ "1": 100.5 }), "`logit_bias` must hold numbers >= -100 and <= 100"),
                (json!({ "Hello": 1 }), "`logit_bias` holds the key `Hello`, which is not a token id"),
                (json!([1]), "`logit_bias` must map token ids to numbers"),
            ],
        ),
        field(
            "allowed_token_ids",
            vec![(json!([9, 5, 9]), wire(json!({ "allowed_token_ids": [5, 9] })))],
            vec![
                (json!([]), "`allowed_token_ids` must not be empty"),
                (json!([1024]), "`allowed_token_ids` holds token id `1024`; the vocabulary has 1024"),
                (json!(5), "`allowed_token_ids`: invalid type"),
            ],
        ),
        field(
            "bad_words",
            vec![
                (json!([]), wire(json!({}))),
                // "an", "d" at the beginning of a text, " and" after a space.
                (json!(["and"]), wire(json!({ "bad_words": [2, 274, 67, 1, 276] }))),
                (json!([" and"]), wire(json!({ "bad_words": [2, 274, 67, 1, 276] }))),
            ],
            vec![
                (json!([""]), "`bad_words` must not hold empty strings"),
                (json!(vec!["a"; 129]), "`bad_words` may hold up to 128 words. Given: 129"),
                (json!("and"), "`bad_words`: invalid type"),
            ],
        ),
    ]
}

fn ended() -> Vec<Field> {
    let text = "/choices/0/message/content";
    vec![
        field(
            "stop_token_ids",
            vec![
                (json!([]), answer(text, json!("Hello world"))),
                (json!([267]), answer(text, json!("Hello"))),
                (json!([267]), answer("/choices/0/finish_reason", json!("stop"))),
            ],
            vec![
                (json!([1024]), "`stop_token_ids` holds token id `1024`; the vocabulary has 1024"),
                (json!(5), "`stop_token_ids`: invalid type"),
            ],
        ),
        field(
            "min_tokens",
            vec![(json!(0), wire(json!({}))), (json!(2), wire(json!({ "min_new_tokens": 2, "end_token_ids": [END] })))],
            vec![(json!(-1), "`min_tokens`: invalid value")],
        ),
        field(
            "ignore_eos",
            vec![(json!(false), answer("/usage/completion_tokens", json!(3)))],
            vec![(json!(1), "`ignore_eos`: invalid type")],
        ),
        field(
            "skip_special_tokens",
            vec![(json!(true), wire(json!({}))), (json!(false), wire(json!({})))],
            vec![(json!(1), "`skip_special_tokens`: invalid type")],
        ),
        field(
            "add_special_tokens",
            vec![(json!(true), wire(json!({}))), (json!(false), wire(json!({})))],
            vec![(json!(1), "`add_special_tokens`: invalid type")],
        ),
    ]
}
