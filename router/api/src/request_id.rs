//! `x-request-id`: the client's own if it is plain, else one of ours; echoed, and in every log line of the request.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use crate::state::random_u64;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const MAX_LENGTH: usize = 128;

/// Sets it on the response and on the request's log span.
pub(crate) async fn set(request: Request, next: Next) -> Response {
    let id = request.headers().get(HEADER).filter(|id| is_plain(id.as_bytes())).cloned().unwrap_or_else(make);
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(HEADER, id);
    response
}

/// `^[\w.-]{1,128}$`: nothing that could break out of a log line.
fn is_plain(id: &[u8]) -> bool {
    (1..=MAX_LENGTH).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn make() -> HeaderValue {
    let id = format!("{:016x}{:016x}", random_u64(), random_u64());
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn only_short_plain_ids_are_taken_over() {
        assert!(is_plain(b"req_1.a-b"));
        assert!(is_plain(&[b'a'; 128]));
        for id in [&b""[..], &[b'a'; 129], b"a b", b"a\"b", b"a/b", "\u{e9}".as_bytes()] {
            assert!(!is_plain(id));
        }
    }
}
