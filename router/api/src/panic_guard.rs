//! A panic of one handler is one 500, in the caller's dialect, and nobody else's concern.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures::FutureExt;

use crate::error::{ApiError, Dialect};

/// Runs the handler; its panic becomes an answer. The panic's own message is in the log, by the panic hook.
pub(crate) async fn answer_panics(request: Request, next: Next) -> Response {
    let dialect = Dialect::of_path(request.uri().path());
    // Unwind safe: what a handler shares (engine, tokenizer) it shares by message or immutably.
    AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a handler panicked");
        ApiError::Internal.response(dialect)
    })
}
