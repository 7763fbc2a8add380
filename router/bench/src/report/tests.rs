use std::time::Instant;

use super::*;
use crate::record::{Failure, Stream, Window};

/// A request whose pieces come at these milliseconds after it was due, with as many tokens as pieces.
fn record(due: Instant, window: Window, pieces_ms: &[u64]) -> Record {
    let at = |ms| due + Duration::from_millis(ms);
    let mut stream = Stream::new(due);
    for &ms in pieces_ms {
        stream.take(br#"{"choices":[{"text":"x"}]}"#, at(ms), &window);
    }
    let counts = format!(r#"{{"usage":{{"prompt_tokens":10,"completion_tokens":{}}}}}"#, pieces_ms.len());
    stream.take(counts.as_bytes(), at(pieces_ms[pieces_ms.len() - 1]), &window);
    let took = Duration::from_millis(pieces_ms[pieces_ms.len() - 1]);
    let lag = Duration::from_millis(1);
    Record { lag, took, ended_in_window: window.holds(due + took), stream, outcome: Ok(()) }
}

fn measured(records: Vec<Record>) -> Measured {
    Measured {
        records,
        window: Duration::from_secs(1),
        peak_running: 2,
        num_repeated: 0,
        num_resent: 0,
        event_loop_lag_us: vec![500],
        cpu_share: 0.5,
    }
}

const LOAD: Load = Load::Closed { concurrency: 2, ramp_up: Duration::ZERO };

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
}

#[test]
fn figures_are_those_computed_by_hand() {
    let due = Instant::now();
    let window = Window { start: due, end: Some(due + Duration::from_secs(1)) };
    // The second ends after the window: three of its four tokens count, its prompt and latencies do, its end does not.
    let records = vec![record(due, window, &[100, 110, 130]), record(due, window, &[200, 400, 600, 1_200])];
    let run = Run::new(LOAD, measured(records), &[]);
    close(run.throughput.output_tokens_per_s, 6.0);
    close(run.throughput.total_tokens_per_s.unwrap(), 26.0);
    close(run.throughput.requests_per_s, 1.0);
    assert_eq!(run.tokens, Tokens { prompt: Some(20), output: 7, num_counted_by_server: 2 });
    close(run.ttft_ms.unwrap().p50, 150.0);
    // 10, 20, 200, 200, 600
    let itl = run.itl_ms.unwrap();
    close(itl.p50, 200.0);
    close(itl.mean, 206.0);
    // 15 and 1000 / 3
    close(run.tpot_ms.unwrap().max, 333.333);
    close(run.e2e_ms.unwrap().p50, 665.0);
    close(run.generator.send_lag_ms.unwrap().p99, 1.0);
}

#[test]
fn failures_are_counted_by_class_and_are_in_no_figure() {
    let due = Instant::now();
    let window = Window { start: due, end: None };
    let failed = |failure| Record { outcome: Err(failure), ..record(due, window, &[1, 2]) };
    let records = vec![
        record(due, window, &[100, 110]),
        failed(Failure::Status(429, "slow down".to_owned())),
        failed(Failure::Status(429, "again".to_owned())),
        failed(Failure::Cut("gone".to_owned())),
    ];
    let run = Run::new(LOAD, measured(records), &["ttft:500".parse().unwrap()]);
    assert_eq!((run.num_ended, run.failures.count), (1, 3));
    let classes: Vec<_> = run.failures.classes.iter().map(|(name, class)| (name.as_str(), class.count)).collect();
    assert_eq!(classes, [("cut", 1), ("status_429", 2)]);
    assert_eq!(run.failures.classes["status_429"].first, "slow down");
    assert_eq!(run.ttft_ms.unwrap().count, 1);
    close(run.throughput.output_tokens_per_s, 2.0);
    // A request that failed is not good.
    close(run.goodput.unwrap().share, 0.25);
}

#[test]
fn a_good_request_keeps_every_goal() {
    let due = Instant::now();
    let window = Window { start: due, end: None };
    let records = || vec![record(due, window, &[100, 110, 130]), record(due, window, &[100, 160])];
    for (goals, share) in [
        (vec!["ttft:100"], 1.0),
        (vec!["ttft:99.9"], 0.0),
        (vec!["itl:20"], 0.5),
        (vec!["itl:60", "e2e:130"], 0.5),
        (vec!["tpot:15"], 0.5),
        (vec!["tpot:60", "e2e:160"], 1.0),
    ] {
        let goals: Vec<Goal> = goals.into_iter().map(|goal| goal.parse().unwrap()).collect();
        close(Run::new(LOAD, measured(records()), &goals).goodput.unwrap().share, share);
    }
}

#[test]
fn a_run_without_a_single_answer_has_no_figures() {
    let run = Run::new(LOAD, measured(Vec::new()), &["ttft:1".parse().unwrap()]);
    assert!(run.ttft_ms.is_none() && run.itl_ms.is_none() && run.generator.send_lag_ms.is_none());
    assert_eq!(run.throughput.output_tokens_per_s.to_string(), "0");
    close(run.goodput.unwrap().share, 0.0);
}
