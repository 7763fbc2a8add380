//! OpenAI's routes, by OpenAI's rules: neutral values pass, stops are trimmed, streams end with `[DONE]`.

pub(crate) mod chat_completions;
pub(crate) mod completions;
mod logprobs;
mod messages;
pub(crate) mod models;
mod prompt_logprobs;
mod request;
mod response;
mod sampling_fields;
mod schemas;

pub(crate) use schemas::schemas;
