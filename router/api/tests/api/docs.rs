//! `GET /docs`.

use axum::body::Body;
use axum::http::Request;
use forebay_engine::fake_worker::FakeScript;
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::support::{Server, server_of};

/// With a key, which the pages must not need.
async fn locked() -> Server {
    server_of(FakeScript::default(), |config| config.api_keys = vec!["k".to_owned()]).await
}

/// A page's type and bytes; those of scripts and styles are compressed.
async fn page(server: &Server, path: &str) -> (String, Vec<u8>) {
    let response = server.app.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    let policy = response.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'self';"), "{policy}");
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    let is_gzip = response.headers().get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    let bytes = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    assert_eq!(is_gzip, bytes.starts_with(&[0x1f, 0x8b]), "{path}");
    (content_type, bytes)
}

#[tokio::test]
async fn the_pages_are_open_and_may_load_nothing_from_elsewhere() {
    let server = locked().await;
    for (path, content_type) in [
        ("/docs/", "text/html"),
        ("/docs/swagger-ui.css", "text/css"),
        ("/docs/swagger-ui-bundle.js", "text/javascript"),
        ("/docs/favicon-32x32.png", "image/png"),
    ] {
        assert_eq!(page(&server, path).await.0, content_type, "{path}");
    }
    assert_eq!(page(&server, "/docs/").await, page(&server, "/docs/index.html").await);
}

#[tokio::test]
async fn they_show_our_document_and_ask_nobody_whether_it_is_valid() {
    let script = String::from_utf8(page(&locked().await, "/docs/swagger-initializer.js").await.1).unwrap();
    assert!(script.contains(r#""url": "../openapi.json""#), "{script}");
    assert!(script.contains(r#""validatorUrl": "none""#), "{script}");
}

#[tokio::test]
async fn the_path_without_a_slash_leads_there_and_another_page_does_not_exist() {
    let server = locked().await;
    let answer = server.get("/docs").await;
    assert_eq!((answer.status.as_u16(), answer.headers["location"].to_str().unwrap()), (303, "docs/"));
    let answer = server.get("/docs/other.html").await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        answer.json(),
        serde_json::json!({ "error": "unknown path `/docs/other.html`", "error_type": "not_found" })
    );
}
