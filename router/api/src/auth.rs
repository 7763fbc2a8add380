//! The API-key layer. It lies round the whole router and denies by default: only routes named here are open, and the
//! decision is taken from the matched route, never from the path's text.

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::{ApiError, Dialect};
use crate::state::AppState;

/// Open as in TGI: probes, metrics and descriptions, for `GET` and `HEAD`.
const PUBLIC_ROUTES: &[&str] = &[
    "/",
    "/health",
    "/ping",
    "/info",
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
    "/v1/models",
    "/v1/models/{*id}",
    "/docs",
    "/docs/",
    "/docs/{*file}",
    "/openapi.json",
    "/api-doc/openapi.json",
];

/// Hashes of the accepted keys; the keys themselves are not kept.
pub(crate) struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| Sha256::digest(key.as_bytes()).into()).collect())
    }

    /// Whether the headers carry one of the keys; true when none is asked for. Takes the same time wherever a key
    /// differs, and looks at all keys.
    fn allow(&self, headers: &HeaderMap) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Some(given) = bearer(headers) else { return false };
        let given: [u8; 32] = Sha256::digest(given).into();
        self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given)).into()
    }
}

/// Lets a request through if its route is open or it carries a key.
pub(crate) async fn require_key(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if is_public(&request, state.platform_routes().health()) || state.keys().allow(request.headers()) {
        return next.run(request).await;
    }
    ApiError::Unauthorized.response(Dialect::of_path(request.uri().path()))
}

/// `probe` is the platform's route for them.
fn is_public(request: &Request, probe: Option<&str>) -> bool {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    reads && route.is_some_and(|route| is_public_route(route) || probe == Some(route))
}

/// Whether reading this route needs no key.
pub(crate) fn is_public_route(route: &str) -> bool {
    PUBLIC_ROUTES.contains(&route)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(keys: &[&str], header: &str) -> bool {
        let keys = ApiKeys::new(&keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, header.parse().unwrap());
        keys.allow(&headers)
    }

    #[test]
    fn any_of_several_keys_is_accepted_and_case_matters() {
        assert!(allowed(&["first", "second"], "Bearer first"));
        assert!(allowed(&["first", "second"], "bearer second"));
        assert!(!allowed(&["first", "second"], "Bearer FIRST"));
    }

    #[test]
    fn a_prefix_an_empty_key_or_another_scheme_is_refused() {
        for header in ["Bearer firs", "Bearer first ", "Bearer ", "Bearer", "Basic first", "first", "Bearerfirst"] {
            assert!(!allowed(&["first"], header), "{header}");
        }
    }
}
