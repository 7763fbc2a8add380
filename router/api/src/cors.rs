//! Which browser pages may call us.

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{Any, CorsLayer};

/// Any origin unless the operator named some. `authorization` is among the headers, so that a page can send its key.
pub(crate) fn layer(allow_origin: &[HeaderValue]) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, HeaderName::from_static("x-request-id")])
        .expose_headers(Any);
    if allow_origin.is_empty() { layer.allow_origin(Any) } else { layer.allow_origin(allow_origin.to_vec()) }
}
