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

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    async fn panics() {
        panic!("a bug");
    }

    #[tokio::test]
    async fn a_panic_is_a_json_500_and_the_next_request_is_served() {
        let app = Router::new()
            .route("/v1/x", get(panics))
            .route("/fine", get(async || "fine"))
            .layer(axum::middleware::from_fn(super::answer_panics));
        let answer = async |path: &str| {
            let request = axum::extract::Request::get(path).body(Body::empty()).unwrap();
            app.clone().oneshot(request).await.unwrap()
        };
        let failed = answer("/v1/x").await;
        assert_eq!(
            (failed.status().as_u16(), failed.headers()["content-type"].as_bytes()),
            (500, &b"application/json"[..])
        );
        assert_eq!(answer("/fine").await.status(), 200);
    }
}
