//! The endpoints through the whole router, on the fake worker: one module an endpoint, one binary for all, because
//! each binary would link everything again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod auth;
mod cancellation;
mod chat_completions;
mod chat_tokenize;
mod cloud;
mod completions;
mod docs;
mod document;
mod echo;
mod equality;
mod errors;
mod fields;
mod generate;
mod generate_stream;
mod headers;
mod health;
mod info;
mod metrics;
mod models;
mod prompt_logprobs;
mod root;
mod support;
mod tgi_errors;
mod tokenize;
