//! What the engine reports: names, labels and values that dashboards rely on.

mod support;

use std::time::Duration;

use forebay_engine::fake_worker::{FakeGroup, FakeScript, Fault, StepFault, engine_config};
use forebay_engine::{Engine, EngineState};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use support::{complete, eventually, first_token, idle, prompt, read, request};

/// An engine that reports to a recorder of its own.
async fn recorded(script: FakeScript) -> (Engine, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let engine = metrics::with_local_recorder(&recorder, || Engine::start(engine_config(), FakeGroup::new(script)));
    assert_eq!(engine.state_changed(&EngineState::Starting).await, EngineState::Ready);
    (engine, handle)
}

/// The lines of the exposition that hold a value.
fn values(handle: &PrometheusHandle) -> Vec<String> {
    handle.render().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn steps_tokens_and_blocks_are_counted() {
    let step_delay = Duration::from_millis(10);
    let (engine, handle) = recorded(FakeScript { step_delay, ..FakeScript::default() }).await;
    complete(&engine, request(prompt(1, 40), 10)).await;
    complete(&engine, request(prompt(1, 40), 10)).await;
    idle(&engine).await;
    let lines = values(&handle);
    let expected = [
        "tgi_queue_size 0",
        "tgi_batch_current_size 0",
        "tgi_batch_max_total_tokens 16368",
        "tgi_batch_inference_count{method=\"prefill\"} 2",
        "tgi_batch_inference_count{method=\"decode\"} 18",
        "tgi_batch_inference_success{method=\"decode\"} 18",
        "tgi_batch_inference_failure{method=\"decode\"} 0",
        "tgi_batch_inference_duration_count{method=\"decode\"} 18",
        "tgi_batch_forward_duration_count{method=\"prefill\"} 2",
        "tgi_batch_decode_duration_count{method=\"decode\"} 18",
        "tgi_batch_filter_duration_count{method=\"decode\"} 18",
        "tgi_batch_concat{reason=\"chunking\"} 0",
        "tgi_request_queue_duration_count 2",
        "tgi_request_inference_duration_count 2",
        "tgi_request_mean_time_per_token_duration_count 2",
        "forebay_time_to_first_token_seconds_count 2",
        "forebay_inter_token_latency_seconds_count 18",
        "forebay_generated_tokens_total 20",
        "forebay_prefix_queried_tokens_total 80",
        "forebay_prefix_hit_tokens_total 32",
        "forebay_kv_blocks{state=\"held\"} 0",
        "forebay_kv_blocks{state=\"cached\"} 3",
        "forebay_worker_group_ready 1",
    ];
    for line in expected {
        assert!(lines.iter().any(|have| have == line), "{line} is not in\n{}", lines.join("\n"));
    }
    let sum = lines.iter().find_map(|line| line.strip_prefix("tgi_batch_inference_duration_sum{method=\"decode\"} "));
    let seconds: f64 = sum.and_then(|sum| sum.parse().ok()).unwrap_or_default();
    assert!((seconds - 0.18).abs() < 0.01, "18 steps of 10 ms took {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_by_kind() {
    let poison = Fault::Sequence { token_id: 9, kind: 2, message: "logits are not finite".to_owned() };
    let mut script = FakeScript::sequence([7, 8, 9]);
    script.faults.push(poison);
    script.step_delay = Duration::from_millis(10);
    let (engine, handle) = recorded(script).await;
    assert!(read(engine.submit(request([5], 5)).await.expect("taken")).await.1.is_err());
    drop(engine.submit(request([5], 5)).await.expect("taken"));
    eventually("the abort is counted", || {
        let lines = values(&handle);
        let has = |line: &str| lines.iter().any(|have| have == line);
        has("forebay_sequence_errors_total{kind=\"numerical\"} 1") && has("forebay_requests_cancelled_total 1")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_group_shows_until_it_is_back() {
    let exit = Fault::Step { incarnation: 1, rank: 0, step_id: 3, kind: StepFault::Exit };
    let script = FakeScript { faults: vec![exit], step_delay: Duration::from_millis(10), ..FakeScript::default() };
    let (engine, handle) = recorded(script).await;
    let shows = |line: &str| values(&handle).iter().any(|have| have == line);
    let generation = engine.submit(request([5], 9)).await.expect("taken");
    engine.state_changed(&EngineState::Ready).await;
    assert!(shows("forebay_worker_group_ready 0") && shows("forebay_worker_group_losses_total 1"));
    assert!(shows("tgi_batch_inference_failure{method=\"decode\"} 2"), "{:#?}", values(&handle));
    while engine.state() != EngineState::Ready {
        engine.state_changed(&engine.state()).await;
    }
    assert!(shows("forebay_worker_group_ready 1"));
    assert_eq!(read(generation).await.0.len(), 9);
    assert!(shows("forebay_resumptions_total 1"));
}

#[tokio::test(start_paused = true)]
async fn every_metric_has_a_help_text() {
    let (engine, handle) = recorded(FakeScript::default()).await;
    complete(&engine, request([5], 3)).await;
    let text = handle.render();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let silent: Vec<_> = families.filter(|name| !text.contains(&format!("# HELP {name} "))).collect();
    assert_eq!(silent, Vec::<&str>::new());
}

#[tokio::test(start_paused = true)]
async fn prompts_that_join_running_sequences_are_counted() {
    let (engine, handle) =
        recorded(FakeScript { step_delay: Duration::from_millis(10), ..FakeScript::default() }).await;
    let mut running = engine.submit(request([5], 50)).await.expect("taken");
    first_token(&mut running).await;
    complete(&engine, request([6], 2)).await;
    let lines = values(&handle);
    for line in ["tgi_batch_concat{reason=\"chunking\"} 1", "tgi_batch_concat_duration_count{method=\"decode\"} 1"] {
        assert!(lines.iter().any(|have| have == line), "{line} is not in\n{}", lines.join("\n"));
    }
}
