//! What is counted and timed of a request as a whole, by TGI's names where it has one; what the engine sees (queue,
//! steps, tokens, blocks) it counts itself. Labels take values from fixed sets only.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use metrics::{Histogram, counter, describe_counter, describe_histogram, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

use crate::error::ApiError;

/// Values of the `err` label.
const FAILURES: &[&str] =
    &["validation", "overloaded", "template", "incomplete", "generation", "unavailable", "dropped"];

/// The router's own part of a token's way to its client.
const RELAY_SECONDS: &str = "forebay_relay_seconds";

/// A recorder with TGI's buckets: 35 from 0.15 ms on, each 1.5 times the last, for durations, and 100 equal ones up to
/// `max_total_tokens` for lengths; powers of 2 for batches, where TGI has each number up to 1,024. Install it before the
/// state is made.
pub fn recorder(max_total_tokens: u32) -> Result<PrometheusBuilder, BuildError> {
    let durations: Vec<f64> = (0..35).map(|i| 0.00015 * 1.5_f64.powi(i)).collect();
    let batch_sizes: Vec<f64> = (0..=10).map(|i| 2_f64.powi(i)).collect();
    let draft_tokens: Vec<f64> = (0..=8).map(f64::from).collect();
    // Tens of microseconds, where TGI's first bucket ends at 150.
    let relays: Vec<f64> = (0..40).map(|i| 0.00001 * 1.3_f64.powi(i)).collect();
    let lengths: Vec<f64> = (1..=100).map(|i| f64::from(max_total_tokens) / 100.0 * f64::from(i)).collect();
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(RELAY_SECONDS.to_owned()), &relays)?
        .set_buckets_for_metric(Matcher::Suffix("duration".to_owned()), &durations)?
        .set_buckets_for_metric(Matcher::Suffix("seconds".to_owned()), &durations)?
        .set_buckets_for_metric(Matcher::Suffix("_tokens".to_owned()), &lengths)?
        .set_buckets_for_metric(Matcher::Suffix("_length".to_owned()), &lengths)?
        .set_buckets_for_metric(Matcher::Full("tgi_batch_next_size".to_owned()), &batch_sizes)?
        .set_buckets_for_metric(Matcher::Full("tgi_request_skipped_tokens".to_owned()), &draft_tokens)
}

/// Help texts, and zeros where a series would else be missing until its first event.
pub(crate) fn describe() {
    describe_counter!("tgi_request_count", "Requests received");
    describe_counter!("tgi_request_success", "Requests answered whole");
    describe_counter!("tgi_request_failure", "Requests that failed, by cause");
    describe_histogram!("tgi_request_duration", "Seconds from arrival to the last token");
    describe_histogram!("tgi_request_validation_duration", "Seconds spent on templates, tokenizing and checks");
    describe_histogram!("tgi_request_generated_tokens", "Generated tokens");
    describe_histogram!("tgi_request_input_length", "Prompt tokens");
    describe_histogram!("tgi_request_max_new_tokens", "Bound on generated tokens");
    describe_histogram!(
        RELAY_SECONDS,
        "From a step's result, read off the worker's stream, to its token's event at the socket"
    );
    describe_counter!("forebay_http_responses_total", "Responses by route and status");
    counter!("tgi_request_count").increment(0);
    counter!("tgi_request_success").increment(0);
    for failure in FAILURES {
        counter!("tgi_request_failure", "err" => *failure).increment(0);
    }
}

/// Where streams record how long their tokens were in the router.
pub(crate) fn relay_histogram() -> Histogram {
    histogram!(RELAY_SECONDS)
}

/// Counts responses by route, never by the path's text: a scanner must not make series.
pub(crate) async fn count_response(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    counter!("forebay_http_responses_total", "route" => route, "status" => response.status().as_str().to_owned())
        .increment(1);
    response
}

/// How long the parts of a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timings {
    pub(crate) total: Duration,
    pub(crate) validation: Duration,
    pub(crate) queue: Duration,
    pub(crate) inference: Duration,
    pub(crate) time_per_token: Duration,
}

/// One request's clock and its outcome. Dropped without one, it was abandoned by its client.
#[derive(Debug)]
pub(crate) struct RequestRecord {
    arrived: Instant,
    validation: Duration,
    queue: Duration,
    last_token: Option<Instant>,
    num_tokens: u32,
    ended: bool,
}

impl RequestRecord {
    /// A request has arrived.
    pub(crate) fn begin() -> Self {
        counter!("tgi_request_count").increment(1);
        let zero = Duration::ZERO;
        Self { arrived: Instant::now(), validation: zero, queue: zero, last_token: None, num_tokens: 0, ended: false }
    }

    /// Passes a result on; an error is this request's end.
    pub(crate) fn check<T>(&mut self, result: Result<T, ApiError>) -> Result<T, ApiError> {
        result.inspect_err(|error| self.failed(error))
    }

    pub(crate) fn failed(&mut self, error: &ApiError) {
        self.ended = true;
        counter!("tgi_request_failure", "err" => error.metric_label()).increment(1);
    }

    /// Everything is known of it; it goes into the line.
    pub(crate) fn validated(&mut self, num_prompt_tokens: usize, max_new_tokens: u32) {
        self.validation = self.arrived.elapsed();
        histogram!("tgi_request_validation_duration").record(self.validation);
        histogram!("tgi_request_input_length").record(num_prompt_tokens as f64);
        histogram!("tgi_request_max_new_tokens").record(max_new_tokens);
    }

    /// It left the line.
    pub(crate) fn started(&mut self, queued_for: Duration) {
        self.queue = queued_for;
    }

    pub(crate) fn token(&mut self) {
        self.last_token = Some(Instant::now());
        self.num_tokens += 1;
    }

    /// It ended well.
    pub(crate) fn succeeded(&mut self) {
        self.ended = true;
        let timings = self.timings();
        counter!("tgi_request_success").increment(1);
        histogram!("tgi_request_duration").record(timings.total);
        histogram!("tgi_request_generated_tokens").record(self.num_tokens);
    }

    /// Up to the last token.
    pub(crate) fn timings(&self) -> Timings {
        let total = self.last_token.map_or_else(|| self.arrived.elapsed(), |last| last - self.arrived);
        let inference = total.saturating_sub(self.validation).saturating_sub(self.queue);
        let time_per_token = inference / self.num_tokens.max(1);
        Timings { total, validation: self.validation, queue: self.queue, inference, time_per_token }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if !self.ended {
            counter!("tgi_request_failure", "err" => "dropped").increment(1);
        }
    }
}
