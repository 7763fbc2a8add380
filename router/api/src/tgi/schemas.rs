//! TGI's bodies, as the API's document shows them, by TGI's names.

use super::request;
use crate::schema::{Schema, boolean, integer, list, named, number, object, string, words};
use crate::state::Limits;

pub(crate) fn schemas(limits: &Limits) -> Vec<(&'static str, Schema)> {
    vec![
        ("GenerateRequest", request::BODY.schema(limits)),
        ("GenerateParameters", request::PARAMETERS.schema(limits)),
        ("GenerateResponse", object().property("generated_text", string()).optional("details", named("Details"))),
        ("Details", sequence(ended()).optional("best_of_sequences", list(named("BestOfSequence")))),
        ("BestOfSequence", sequence(ended().property("generated_text", string()))),
        ("StreamResponse", stream_response()),
        ("StreamDetails", ended().property("input_length", integer())),
        ("Token", token(number().or_null().about("`null` of what has no probability.")).property("special", boolean())),
        ("PrefillToken", token(number().or_null().about("`null` of the first."))),
        ("SimpleToken", simple_token()),
        (
            "ChatTokenizeResponse",
            object().property("tokenize_response", list(named("SimpleToken"))).property("templated_text", string()),
        ),
        ("Info", info()),
        ("ErrorResponse", object().property("error", string()).property("error_type", string())),
    ]
}

/// How a text ended.
fn ended() -> Schema {
    object()
        .property("finish_reason", words(&["length", "eos_token", "stop_sequence"]))
        .property("generated_tokens", integer())
        .property("seed", integer().or_null().about("`null` if nothing was sampled."))
}

/// The same, with all tokens.
fn sequence(schema: Schema) -> Schema {
    schema
        .property("prefill", list(named("PrefillToken")).about("Empty without `decoder_input_details`."))
        .property("tokens", list(named("Token")))
        .optional("top_tokens", list(list(named("Token"))))
}

fn token(logprob: Schema) -> Schema {
    object().property("id", integer()).property("text", string()).property("logprob", logprob)
}

fn stream_response() -> Schema {
    object()
        .property("index", integer().at_least(1))
        .property("token", named("Token"))
        .optional("top_tokens", list(named("Token")))
        .property("generated_text", string().or_null().about("`null` until the last."))
        .property("details", named("StreamDetails").or_null().about("`null` until the last, or without `details`."))
}

fn simple_token() -> Schema {
    object()
        .property("id", integer())
        .property("text", string())
        .property("start", integer().about("In bytes."))
        .property("stop", integer().about("In bytes."))
}

fn info() -> Schema {
    object()
        .property("model_id", string())
        .property("model_sha", string().or_null())
        .property("model_pipeline_tag", string().or_null())
        .property("max_concurrent_requests", integer())
        .property("max_best_of", integer())
        .property("max_stop_sequences", integer())
        .property("max_input_tokens", integer())
        .property("max_total_tokens", integer())
        .property("validation_workers", integer())
        .property("max_client_batch_size", integer())
        .property("router", string())
        .property("version", string())
        .property("sha", string().or_null())
        .property("docker_label", string().or_null())
        .property("model_dtype", string().or_null().about("As `torch.bfloat16`."))
        .property("model_device_type", string().or_null().about("`cpu` or `cuda`."))
        .property("deterministic", boolean().or_null().about("Whether the server runs with `--deterministic`."))
}
