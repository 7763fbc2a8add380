//! HTTP and SSE: the dialects. Each endpoint is one file that ends in one call to `generate`.
#![forbid(unsafe_code)]

mod auth;
mod choices;
mod cloud;
mod cors;
mod docs;
mod document;
mod error;
mod fields;
mod generate;
mod headers;
mod openai;
mod ops;
mod panic_guard;
mod request_id;
mod sampling;
mod schema;
mod sse;
mod state;
mod stops;
mod telemetry;
mod text_generation;
mod tgi;
mod validation;

pub use choices::MAX_CHOICES;
pub use cloud::{PlatformRouteError, PlatformRoutes};
pub use document::document;
pub use state::{AppConfig, AppState, Build, Limits, ServedModel, Watermark};
pub use telemetry::recorder;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};

/// Everything we serve, one line an endpoint. Layers run from the last to the first.
pub fn app(state: AppState) -> Router {
    Router::new()
        .merge(tgi::root::router())
        .merge(tgi::generate::router())
        .merge(tgi::generate_stream::router())
        .merge(tgi::tokenize::router())
        .merge(tgi::chat_tokenize::router())
        .merge(tgi::info::router())
        .merge(openai::chat_completions::router())
        .merge(openai::completions::router())
        .merge(openai::models::router())
        .merge(cloud::invocations::router())
        .merge(cloud::vertex::router(state.platform_routes()))
        .merge(cloud::kserve::router())
        .merge(ops::health::router())
        .merge(ops::metrics::router())
        .merge(docs::router())
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(DefaultBodyLimit::max(state.limits().max_body_bytes))
        .layer(from_fn_with_state(state.clone(), auth::require_key))
        .layer(from_fn(telemetry::count_response))
        .layer(from_fn(panic_guard::answer_panics))
        .layer(cors::layer(state.cors_allow_origin()))
        .layer(from_fn(request_id::set))
        .with_state(state)
}
