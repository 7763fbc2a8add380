//! Keys: what is open, what is not, and that odd spellings of a path open nothing.

use axum::body::Body;
use axum::http::{Method, Request};
use forebay_engine::fake_worker::FakeScript;

use crate::support::{Server, send, server_of};

const PUBLIC: &[&str] = &[
    "/",
    "/health",
    "/ping",
    "/info",
    "/metrics",
    "/v1/models",
    "/v2/health/live",
    "/v2/health/ready",
    "/v1/models/org/tiny",
    "/openapi.json",
    "/api-doc/openapi.json",
    "/docs/swagger-initializer.js",
];
const PROTECTED: &[&str] = &[
    "/",
    "/generate",
    "/generate_stream",
    "/tokenize",
    "/chat_tokenize",
    "/v1/chat/completions",
    "/v1/completions",
    "/invocations",
    "/vertex",
    "/v2/models/m/versions/1/infer",
];

async fn locked() -> Server {
    server_of(FakeScript::default(), |config| config.api_keys = vec!["key-one".to_owned(), "Key-Two".to_owned()]).await
}

async fn status(server: &Server, method: Method, path: &str, headers: &[(&str, &str)]) -> u16 {
    let request = Request::builder().method(method).uri(path);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    send(&server.app, request.body(Body::empty()).unwrap()).await.status.as_u16()
}

#[tokio::test]
async fn probes_and_descriptions_are_open_and_everything_else_is_not() {
    let server = locked().await;
    for path in PUBLIC {
        assert_eq!(status(&server, Method::GET, path, &[]).await, 200, "{path}");
    }
    for path in PROTECTED {
        assert_eq!(status(&server, Method::POST, path, &[]).await, 401, "{path}");
        // Past the key the missing content type is the next thing wrong.
        assert_eq!(status(&server, Method::POST, path, &[("authorization", "Bearer key-one")]).await, 415, "{path}");
        assert_eq!(status(&server, Method::POST, path, &[("authorization", "Bearer Key-Two")]).await, 415, "{path}");
        assert_eq!(status(&server, Method::POST, path, &[("authorization", "Bearer key-two")]).await, 401, "{path}");
    }
}

#[tokio::test]
async fn replaced_keys_count_at_once_and_a_server_with_keys_never_opens() {
    let server = locked().await;
    let with = async |key: &str| {
        status(&server, Method::POST, "/generate", &[("authorization", &format!("Bearer {key}"))]).await
    };
    server.state.replace_api_keys(&["key-one".to_owned(), "key-three".to_owned()]);
    assert_eq!([with("key-one").await, with("key-three").await, with("Key-Two").await], [415, 415, 401]);
    server.state.replace_api_keys(&[]);
    assert_eq!([with("key-three").await, with("").await], [415, 401]);
}

#[tokio::test]
async fn no_spelling_of_a_path_host_or_header_opens_a_route() {
    let server = locked().await;
    for path in ["//generate", "/health/../generate", "/health%2f..%2fgenerate", "/generate;x", "/generate/", "/x"] {
        for method in [Method::GET, Method::POST, Method::HEAD] {
            assert_eq!(status(&server, method, path, &[]).await, 401, "{path}");
        }
        // A browser's question before its request: answered without a key, alike for every path, and with nothing.
        let request = Request::builder().method(Method::OPTIONS).uri(path).body(Body::empty()).unwrap();
        assert_eq!(send(&server.app, request).await.body, "");
    }
    for header in [("host", "h/health?"), ("x-forwarded-for", "127.0.0.1"), ("x-original-url", "/health")] {
        assert_eq!(status(&server, Method::POST, "/generate", &[header]).await, 401, "{header:?}");
    }
    for method in [Method::HEAD, Method::PUT] {
        assert_eq!(status(&server, method, "/generate", &[]).await, 401);
    }
    assert_eq!(status(&server, Method::POST, "/health", &[]).await, 401);
}

#[tokio::test]
async fn the_answer_without_a_key_is_json_and_holds_no_key() {
    let server = locked().await;
    for (path, message) in [("/generate", "/error"), ("/v1/completions", "/error/message")] {
        let answer = send(&server.app, Request::post(path).body(Body::empty()).unwrap()).await;
        assert!(answer.json().pointer(message).unwrap().is_string());
        assert!(!answer.body.contains("key-one") && !answer.body.contains("Key-Two"));
    }
    for path in PUBLIC {
        let body = server.get(path).await.body;
        assert!(!body.contains("Key-Two"), "{path}");
    }
}
