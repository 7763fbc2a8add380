//! `parameters` of `/generate`; TGI's defaults, limits and words.

use serde_json::json;

use super::{Endpoint, Field, answer, field, wire};

const GENERATE: Endpoint = Endpoint {
    path: "/generate",
    body: |fields| json!({ "inputs": "Hello and", "parameters": fields }),
    bad_status: 422,
};

#[tokio::test]
async fn how_tokens_are_chosen() {
    GENERATE.walk(chosen()).await;
}

#[tokio::test]
async fn where_a_text_ends_and_what_is_told_of_it() {
    GENERATE.walk(told()).await;
}

#[tokio::test]
async fn what_is_not_served_takes_its_neutral_value_only() {
    GENERATE.walk(not_served()).await;
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn chosen() -> Vec<Field> {
    vec![
        field(
            "temperature",
            vec![
                (json!(1.0), wire(json!({}))),
                (json!(0.5), wire(json!({ "temperature": 0.5 }))),
                (json!(100), wire(json!({ "temperature": 100.0 }))),
            ],
            vec![
                (json!(0), "`temperature` must be strictly positive"),
                (json!(-1), "`temperature` must be strictly positive"),
                (json!("hot"), "`parameters.temperature`: invalid type"),
            ],
        ),
        field(
            "repetition_penalty",
            vec![(json!(1.5), wire(json!({ "repetition_penalty": 1.5 })))],
            vec![
                (json!(0), "`repetition_penalty` must be strictly positive"),
                (json!([]), "`parameters.repetition_penalty`: invalid type"),
            ],
        ),
        field(
            "watermark",
            vec![(json!(false), wire(json!({}))), (json!(true), wire(json!({ "watermark": [0.5, 2.0] })))],
            vec![(json!("x"), "`parameters.watermark`: invalid type")],
        ),
        field(
            "frequency_penalty",
            vec![
                (json!(0), wire(json!({}))),
                (json!(-2), wire(json!({ "tgi_frequency_penalty": -2.0 }))),
                (json!(2), wire(json!({ "tgi_frequency_penalty": 2.0 }))),
            ],
            vec![
                (json!(-2.5), "`frequency_penalty` must be >= -2.0 and <= 2.0"),
                (json!(2.5), "`frequency_penalty` must be >= -2.0 and <= 2.0"),
                (json!(true), "`parameters.frequency_penalty`: invalid type"),
            ],
        ),
        field(
            "top_k",
            vec![
                (json!(1), wire(json!({ "temperature": 1.0, "top_k": 1 }))),
                (json!(i32::MAX), wire(json!({ "temperature": 1.0, "top_k": i32::MAX }))),
            ],
            vec![
                (json!(0), "`top_k` must be strictly positive"),
                (json!(-1), "`top_k` must be strictly positive"),
                (json!(5.5), "`parameters.top_k`: invalid type: floating point `5.5`, expected i32"),
                (json!(1_u64 << 31), "`parameters.top_k`: invalid value"),
            ],
        ),
        field(
            "top_p",
            vec![(json!(0.5), wire(json!({ "temperature": 1.0, "top_p": 0.5 })))],
            vec![
                (json!(0), "`top_p` must be > 0.0 and < 1.0"),
                (json!(1), "`top_p` must be > 0.0 and < 1.0"),
                (json!("x"), "`parameters.top_p`: invalid type"),
            ],
        ),
        field(
            "typical_p",
            vec![(json!(0.5), wire(json!({ "temperature": 1.0, "typical_p": 0.5 })))],
            vec![
                (json!(0), "`typical_p` must be > 0.0 and < 1.0"),
                (json!(1), "`typical_p` must be > 0.0 and < 1.0"),
                (json!({}), "`parameters.typical_p`: invalid type"),
            ],
        ),
        field(
            "do_sample",
            vec![(json!(true), wire(json!({ "temperature": 1.0 }))), (json!(false), wire(json!({})))],
            vec![(json!(1), "`parameters.do_sample`: invalid type")],
        ),
        field(
            "seed",
            vec![(json!(0), wire(json!({ "small_seed": 0 }))), (json!(u64::MAX), wire(json!({})))],
            vec![(json!(-1), "`parameters.seed`: invalid value"), (json!(0.5), "`parameters.seed`: invalid type")],
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn told() -> Vec<Field> {
    vec![
        field(
            "max_new_tokens",
            vec![
                (json!(1), answer("/generated_text", json!("Hello"))),
                (json!(2046), answer("/generated_text", json!("Hello world"))),
            ],
            vec![
                (json!(0), "`max_new_tokens` must be strictly positive"),
                (
                    json!(2047),
                    "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2 `inputs` tokens and 2047 \
                     `max_new_tokens`",
                ),
                (json!(-1), "`parameters.max_new_tokens`: invalid value"),
            ],
        ),
        field(
            "return_full_text",
            vec![
                (json!(true), answer("/generated_text", json!("Hello andHello world"))),
                (json!(false), answer("/generated_text", json!("Hello world"))),
            ],
            vec![(json!("yes"), "`parameters.return_full_text`: invalid type")],
        ),
        field(
            "stop",
            vec![
                (json!([]), answer("/generated_text", json!("Hello world"))),
                (json!(["wo"]), answer("/generated_text", json!("Hello wo"))),
                (json!(["1", "2", "3", "lo"]), answer("/generated_text", json!("Hello"))),
            ],
            vec![
                (json!(["1", "2", "3", "4", "5"]), "`stop` supports up to 4 stop sequences. Given: 5"),
                (json!([""]), "`stop` must not hold empty strings"),
                (json!("x"), "`parameters.stop`: invalid type"),
            ],
        ),
        field(
            "truncate",
            vec![
                (json!(1), answer("/generated_text", json!("Hello world"))),
                (json!(2047), answer("/generated_text", json!("Hello world"))),
            ],
            vec![
                (json!(0), "`truncate` must be strictly positive and less than 2047. Given: 0"),
                (json!(2048), "`truncate` must be strictly positive and less than 2047. Given: 2048"),
                (json!(-1), "`parameters.truncate`: invalid value"),
            ],
        ),
        field(
            "details",
            vec![
                (json!(true), answer("/details/generated_tokens", json!(3))),
                (json!(true), wire(json!({ "logprobs_kind": 1, "top_ties": true }))),
                (json!(false), answer("/details", json!(null))),
            ],
            vec![(json!(0), "`parameters.details`: invalid type")],
        ),
        field(
            "decoder_input_details",
            vec![
                (json!(true), answer("/details/prefill/0/logprob", json!(null))),
                (json!(true), answer("/details/prefill/1/text", json!(" and"))),
                (json!(true), wire(json!({ "num_prompt_logprobs": 0, "logprobs_kind": 1, "top_ties": true }))),
                (json!(false), answer("/details", json!(null))),
            ],
            vec![(json!("a"), "`parameters.decoder_input_details`: invalid type")],
        ),
        field(
            "top_n_tokens",
            vec![(json!(0), wire(json!({}))), (json!(5), answer("/generated_text", json!("Hello world")))],
            vec![
                (json!(6), "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
                (json!(-1), "`parameters.top_n_tokens`: invalid value"),
            ],
        ),
    ]
}

fn not_served() -> Vec<Field> {
    vec![
        field("grammar", vec![], vec![(json!({ "type": "regex", "value": "a" }), "`grammar` is not supported")]),
        field("adapter_id", vec![], vec![(json!("mine"), "`adapter_id` is not supported")]),
    ]
}
