//! TGI's validation errors, word for word, on every route that takes its body.
//!
//! Of its 34 kinds, those that only its backend of TensorRT raises (`TopNTokensDisabled`, `UnsupportedModality`), that
//! nothing raises (`UnsetMaxNewTokens`, `MaxNewTokens`), and those of images, which no model that is built here takes
//! (`InvalidBase64`, `InvalidImage`, `InvalidInt`, `InvalidImageContent`, `FailedFetchImage`, `ImageTooLarge`,
//! `ImageReadError`), cannot arise; `Tokenizer` needs a tokenizer that fails. Those of grammars are told beside grammars.

use forebay_api::AppConfig;
use forebay_engine::fake_worker::FakeScript;
use serde_json::{Value, json};

use crate::support::{HELLO, server_of};

/// One of TGI's errors: its name, the parameters that bring it about, its words.
type Row = (&'static str, Value, &'static str);

const STREAMS: &[&str] = &["/generate_stream"];
const WHOLE: &[&str] = &["/", "/generate"];

/// What every route refuses alike.
fn on_all_routes() -> Vec<Row> {
    vec![
        ("Temperature", json!({ "temperature": 0 }), "`temperature` must be strictly positive"),
        ("RepetitionPenalty", json!({ "repetition_penalty": 0 }), "`repetition_penalty` must be strictly positive"),
        ("FrequencyPenalty", json!({ "frequency_penalty": 2.5 }), "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ("TopK", json!({ "top_k": 0 }), "`top_k` must be strictly positive"),
        ("TopP", json!({ "top_p": 1.0 }), "`top_p` must be > 0.0 and < 1.0"),
        ("TypicalP", json!({ "typical_p": 0 }), "`typical_p` must be > 0.0 and < 1.0"),
        ("NegativeMaxNewTokens", json!({ "max_new_tokens": 0 }), "`max_new_tokens` must be strictly positive"),
        (
            "MaxTotalTokens",
            json!({ "max_new_tokens": 2048 }),
            "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1 `inputs` tokens and 2048 `max_new_tokens`",
        ),
        (
            "StopSequence",
            json!({ "stop": ["1", "2", "3", "4", "5"] }),
            "`stop` supports up to 4 stop sequences. Given: 5",
        ),
        ("TopNTokens", json!({ "top_n_tokens": 6 }), "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ("Truncate", json!({ "truncate": 0 }), "`truncate` must be strictly positive and less than 2047. Given: 0"),
        (
            "Truncate",
            json!({ "truncate": 2048 }),
            "`truncate` must be strictly positive and less than 2047. Given: 2048",
        ),
    ]
}

async fn refuse(routes: &[&str], inputs: &str, rows: Vec<Row>, configure: impl Fn(&mut AppConfig)) {
    let server = server_of(FakeScript::sequence([HELLO]), configure).await;
    for (name, parameters, words) in rows {
        for path in routes {
            let answer = server.post(path, json!({ "inputs": inputs, "parameters": parameters })).await;
            assert_eq!(answer.status, 422, "{name} on {path}: {}", answer.body);
            let error = format!("Input validation error: {words}");
            assert_eq!(answer.json(), json!({ "error": error, "error_type": "validation" }), "{name} on {path}");
        }
    }
}

#[tokio::test]
async fn bad_values_are_refused_in_tgis_words() {
    refuse(&[WHOLE, STREAMS].concat(), "a", on_all_routes(), |_| {}).await;
}

#[tokio::test]
async fn several_answers_are_refused_in_tgis_words_where_they_cannot_be() {
    let rows = vec![
        ("BestOf", json!({ "best_of": 3, "do_sample": true }), "`best_of` must be > 0 and <= 2. Given: 3"),
        ("BestOfSampling", json!({ "best_of": 2 }), "you must use sampling when `best_of` is > 1"),
        (
            "BestOfSeed",
            json!({ "best_of": 2, "do_sample": true, "seed": 1 }),
            "`seed` must not be set when `best_of` > 1",
        ),
    ];
    refuse(WHOLE, "a", rows, |_| {}).await;
    let row = ("BestOfDisabled", json!({ "best_of": 2 }), "`best_of` != 1 is not allowed for this endpoint");
    refuse(WHOLE, "a", vec![row], |config| config.limits.max_best_of = 1).await;
}

#[tokio::test]
async fn what_a_stream_cannot_tell_is_refused_in_tgis_words() {
    let rows = vec![
        (
            "BestOfStream",
            json!({ "best_of": 2, "do_sample": true }),
            "`best_of` != 1 is not supported when streaming tokens",
        ),
        (
            "PrefillDetailsStream",
            json!({ "decoder_input_details": true }),
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ];
    refuse(STREAMS, "a", rows, |_| {}).await;
}

#[tokio::test]
async fn an_empty_prompt_and_one_beyond_the_bound_are_refused_in_tgis_words() {
    let routes = &[WHOLE, STREAMS].concat();
    refuse(routes, "", vec![("EmptyInput", json!({}), "`inputs` cannot be empty")], |_| {}).await;
    let words = "`inputs` must have less than 2 tokens. Given: 4";
    let bound = |config: &mut AppConfig| config.limits.max_input_tokens = Some(2);
    refuse(routes, "a a a a", vec![("InputLength", json!({ "max_new_tokens": 1 }), words)], bound).await;
}
