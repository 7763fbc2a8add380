//! `GET /docs`: the API's document as pages to read and to try it, all from the binary; `/api-doc/openapi.json` and
//! `/openapi.json`, the names that TGI's users and vLLM's know: the document itself.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;
use utoipa_swagger_ui::{Config, SwaggerFile, serve};

use crate::document::document;
use crate::error::{ApiError, NativeError};
use crate::state::AppState;

/// The pages load nothing from elsewhere and send nothing there.
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
);

pub(crate) fn router() -> Router<AppState> {
    Router::new()
        // What a page names is relative to its folder. So is this, for the sake of proxies that add a prefix.
        .route("/docs", get(|| async { Redirect::to("docs/") }))
        .route("/docs/", get(|uri: Uri| async move { page("", &uri) }))
        .route("/docs/{*file}", get(|Path(file): Path<String>, uri: Uri| async move { page(&file, &uri) }))
        .route("/openapi.json", get(handler))
        .route("/api-doc/openapi.json", get(handler))
}

async fn handler(State(state): State<AppState>) -> Json<Value> {
    Json(document(state.limits(), &state.build().version))
}

fn page(file: &str, uri: &Uri) -> Result<Response, NativeError> {
    // Swagger UI asks a public server whether the document is valid, unless told not to.
    let config = Config::new(["../openapi.json"]).validator_url("none").try_it_out_enabled(true);
    let file = serve(file, Arc::new(config)).map_err(|error| {
        tracing::error!(%error, "a page of /docs could not be made");
        ApiError::Internal
    })?;
    let SwaggerFile { bytes, content_type, gzpipped, .. } =
        file.ok_or_else(|| ApiError::UnknownPath(uri.path().to_owned()))?;
    let headers =
        [(CONTENT_TYPE, content_type.parse().unwrap_or(HeaderValue::from_static("application/octet-stream")))];
    let mut response = (headers, bytes.into_owned()).into_response();
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, SAME_ORIGIN);
    if gzpipped {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}
