//! OpenAI's bodies, as the API's document shows them.

use super::{chat_completions, completions};
use crate::schema::{Schema, integer, list, named, number, object, string, words};
use crate::state::Limits;

pub(crate) fn schemas(limits: &Limits) -> Vec<(&'static str, Schema)> {
    let message = object().property("role", words(&["assistant"])).property("content", string());
    let chat_choice =
        |message: &str| choice().property(message, named("Message")).property("logprobs", chat_logprobs());
    let text_choice = choice().property("text", string()).property("logprobs", named("CompletionLogprobs").or_null());
    let whole_choice = text_choice.clone().optional("prompt_logprobs", named("PromptLogprobs"));
    let chat = answer("chat.completion", named("ChatChoice"), named("Usage"));
    let models = object().property("object", words(&["list"])).property("data", list(named("Model")));
    vec![
        ("ChatRequest", chat_completions::BODY.schema(limits)),
        ("ChatCompletion", chat.optional("prompt_logprobs", named("PromptLogprobs"))),
        ("ChatCompletionChunk", answer("chat.completion.chunk", named("ChatChunkChoice"), chunk_usage())),
        ("ChatChoice", chat_choice("message")),
        ("ChatChunkChoice", chat_choice("delta")),
        ("Message", message),
        ("ScoredToken", scored_token()),
        ("CompletionRequest", completions::BODY.schema(limits)),
        ("Completion", answer("text_completion", named("CompletionChoice"), named("Usage"))),
        ("CompletionChunk", answer("text_completion", named("CompletionChunkChoice"), chunk_usage())),
        ("CompletionChoice", whole_choice),
        ("CompletionChunkChoice", text_choice),
        ("CompletionLogprobs", completion_logprobs()),
        ("PromptLogprobs", prompt_logprobs()),
        ("Usage", usage()),
        ("Models", models),
        ("Model", model()),
        ("OpenAiErrorResponse", error()),
    ]
}

fn answer(object_name: &str, choice: Schema, usage: Schema) -> Schema {
    object()
        .property("id", string())
        .property("object", words(&[object_name]))
        .property("created", integer().about("Seconds since 1970."))
        .property("model", string())
        .property("system_fingerprint", string())
        .property("choices", list(choice))
        .property("usage", usage)
}

fn chunk_usage() -> Schema {
    named("Usage").or_null().about("`null` but in the last chunk, which has no choices; that comes if asked for.")
}

fn choice() -> Schema {
    object().property("index", integer()).property("finish_reason", words(&["stop", "length"]).or_null())
}

fn chat_logprobs() -> Schema {
    let token = scored_token().property("top_logprobs", list(named("ScoredToken")));
    object().property("content", list(token)).or_null()
}

fn scored_token() -> Schema {
    let bytes = list(integer().at_least(0).at_most(255)).about("The token's text in UTF-8.");
    object().property("token", string()).property("logprob", number()).property("bytes", bytes)
}

fn completion_logprobs() -> Schema {
    object()
        .property("tokens", list(string()))
        .property("token_logprobs", list(number().or_null()).about("`null` of a prompt's first token."))
        .property("top_logprobs", list(object().with("additionalProperties", number()).or_null()))
        .property("text_offset", list(integer()).about("In characters."))
}

fn prompt_logprobs() -> Schema {
    let token = object()
        .property("logprob", number())
        .property("rank", integer().at_least(1))
        .property("decoded_token", string());
    let position = object().with("additionalProperties", token).about("By id: the token and the likeliest ones.");
    list(position.or_null()).about("Of each prompt token, `null` of the first.")
}

fn usage() -> Schema {
    let details = object().property("cached_tokens", integer());
    object()
        .property("prompt_tokens", integer())
        .property("completion_tokens", integer())
        .property("total_tokens", integer())
        .property("prompt_tokens_details", details)
}

fn model() -> Schema {
    object()
        .property("id", string())
        .property("object", words(&["model"]))
        .property("created", integer())
        .property("owned_by", string())
}

fn error() -> Schema {
    let error = object()
        .property("message", string())
        .property("type", string())
        .property("param", string().or_null().about("The field that is wrong."))
        .property("code", string().or_null())
        .property("http_status_code", integer());
    object().property("error", error).property("error_type", string().about("As natively."))
}
