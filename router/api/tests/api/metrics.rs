//! `GET /metrics`.

use serde_json::json;

use crate::support::{HELLO, server};

#[tokio::test]
async fn requests_are_counted_under_tgis_names() {
    let server = server(&[HELLO]).await;
    server.generate("a", json!({ "max_new_tokens": 2 })).await.ok();
    server.generate("a", json!({ "top_p": 7 })).await;
    let answer = server.get("/metrics").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    for name in [
        "tgi_request_count ",
        "tgi_request_success ",
        "tgi_request_failure{err=\"validation\"} ",
        "tgi_request_failure{err=\"overloaded\"} ",
        "tgi_request_duration_bucket{le=\"0.00015\"} ",
        "tgi_request_validation_duration_count ",
        "tgi_request_input_length_bucket{le=\"20.48\"} ",
        "tgi_request_generated_tokens_sum ",
        "tgi_request_max_new_tokens_count ",
        "tgi_queue_size ",
        "tgi_batch_current_size ",
    ] {
        assert!(answer.body.lines().any(|line| line.starts_with(name)), "{name} is missing in\n{}", answer.body);
    }
}

#[tokio::test]
async fn strange_paths_make_no_series_of_their_own() {
    let server = server(&[]).await;
    for index in 0..50 {
        server.get(&format!("/scan-{index}/x?y={index}")).await;
    }
    let body = server.get("/metrics").await.body;
    assert!(!body.contains("scan-"));
    assert!(body.contains("forebay_http_responses_total{route=\"unmatched\",status=\"404\"}"));
}
