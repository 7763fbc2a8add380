//! `GET /metrics`.

use serde_json::json;

use crate::support::{HELLO, server};

/// Of every series of TGI's that dashboards read, a line's beginning.
const SERIES: &[&str] = &[
    "tgi_request_count ",
    "tgi_request_success ",
    "tgi_request_failure{err=\"validation\"} ",
    "tgi_request_failure{err=\"overloaded\"} ",
    "tgi_request_failure{err=\"template\"} ",
    "tgi_request_failure{err=\"incomplete\"} ",
    "tgi_request_failure{err=\"generation\"} ",
    "tgi_request_failure{err=\"dropped\"} ",
    "tgi_request_duration_bucket{le=\"0.00015\"} ",
    "tgi_request_validation_duration_bucket{le=\"0.00015\"} ",
    "tgi_request_queue_duration_bucket{le=\"0.00015\"} ",
    "tgi_request_inference_duration_bucket{le=\"0.00015\"} ",
    "tgi_request_mean_time_per_token_duration_bucket{le=\"0.00015\"} ",
    "tgi_request_input_length_bucket{le=\"20.48\"} ",
    "tgi_request_generated_tokens_bucket{le=\"20.48\"} ",
    "tgi_request_max_new_tokens_bucket{le=\"20.48\"} ",
    "tgi_request_skipped_tokens_bucket{le=\"0\"} ",
    "tgi_queue_size ",
    "tgi_batch_current_size ",
    "tgi_batch_current_max_tokens ",
    "tgi_batch_max_total_tokens ",
    "tgi_batch_concat{reason=\"chunking\"} ",
    "tgi_batch_inference_count{method=\"prefill\"} ",
    "tgi_batch_inference_success{method=\"decode\"} ",
    "tgi_batch_inference_failure{method=\"decode\"} ",
    "tgi_batch_next_size_bucket{method=\"decode\",le=\"1\"} ",
    "tgi_batch_inference_duration_bucket{method=\"prefill\",le=\"0.00015\"} ",
    "tgi_batch_forward_duration_bucket{method=\"decode\",le=\"0.00015\"} ",
    "tgi_batch_decode_duration_bucket{method=\"decode\",le=\"0.00015\"} ",
    "tgi_batch_filter_duration_bucket{method=\"decode\",le=\"0.00015\"} ",
    "tgi_batch_concat_duration_bucket{method=\"decode\",le=\"0.00015\"} ",
];

#[tokio::test]
async fn every_series_of_tgi_is_there_under_its_name() {
    let server = server(&[HELLO]).await;
    server.generate("a", json!({ "max_new_tokens": 2 })).await.ok();
    server.generate("a", json!({ "top_p": 7 })).await;
    let answer = server.get("/metrics").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    for name in SERIES {
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
