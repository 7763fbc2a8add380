//! What was measured, as it is written to `--json`; `docs/reference/bench.md` says what each field means.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::record::{Record, micros};
use crate::settings::{Arrivals, Goal, Load, Metric, Prompts, Settings, Stop};
use crate::statistics::distribution;

/// Changes when a field changes its meaning or goes.
const FORMAT: &str = "forebay-bench/1";

/// All runs, and what they were run with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The name of this layout.
    pub format: &'static str,
    /// Of the generator.
    pub version: &'static str,
    /// When the first run began, in seconds of Unix time.
    pub started_unix_s: u64,
    /// As given.
    pub url: String,
    /// The route below it.
    pub route: &'static str,
    /// As sent; empty where the API names none.
    pub model: String,
    /// As given.
    pub temperature: f64,
    /// As given.
    pub ignore_eos: bool,
    /// As given.
    pub seed: u64,
    /// In words.
    pub prompts: String,
    /// In words.
    pub stop: String,
    /// In the order in which they ran.
    pub runs: Vec<Run>,
}

/// One load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// In words, for tables and plots.
    pub name: String,
    /// Streams of a closed loop, else nothing.
    pub concurrency: Option<u32>,
    /// Requests a second of an open loop, else nothing.
    pub rate: Option<f64>,
    /// How long was measured, in seconds.
    pub window_s: f64,
    /// The most that ran at once.
    pub peak_running: u64,
    /// Requests that ended well.
    pub num_ended: u64,
    /// Those that did not: in none of the figures below but their own.
    pub failures: Failures,
    /// Requests that asked what had been asked before, since the file of prompts was too short.
    pub num_repeated_prompts: u64,
    /// Requests that were sent again on a new connection, since the kept one had closed before an answer began.
    pub num_resent: u64,
    /// Of requests that ended well.
    pub tokens: Tokens,
    /// What came within the window, over its length.
    pub throughput: Throughput,
    /// To the first piece of text, in milliseconds.
    pub ttft_ms: Option<Distribution>,
    /// Between pieces of text, over all requests, in milliseconds.
    pub itl_ms: Option<Distribution>,
    /// Per output token after the first, a value a request, in milliseconds.
    pub tpot_ms: Option<Distribution>,
    /// To the end of the stream, in milliseconds.
    pub e2e_ms: Option<Distribution>,
    /// When there are goals.
    pub goodput: Option<Goodput>,
    /// How the generator itself did.
    pub generator: Generator,
}

/// Requests that failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Failures {
    /// All of them.
    pub count: u64,
    /// By class.
    pub classes: BTreeMap<String, FailureClass>,
}

/// Requests that failed in one way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailureClass {
    /// So many.
    pub count: u64,
    /// What the first of them said.
    pub first: String,
}

/// Token counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tokens {
    /// Nothing if some request brought no count.
    pub prompt: Option<u64>,
    /// By the server's count, else one a piece of text.
    pub output: u64,
    /// Requests whose output the server counted.
    pub num_counted_by_server: u64,
}

/// Over the window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Throughput {
    /// Requests that ended well within it.
    pub requests_per_s: f64,
    /// Output tokens.
    pub output_tokens_per_s: f64,
    /// Prompt tokens too, counted when the first output comes; nothing if some request brought no count.
    pub total_tokens_per_s: Option<f64>,
}

/// Milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distribution {
    /// Values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Their median.
    pub p50: f64,
    /// 90 of 100 are below.
    pub p90: f64,
    /// 95 of 100 are below.
    pub p95: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// Requests that kept all goals.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goodput {
    /// As given.
    pub goals: Vec<String>,
    /// Of all requests, the failed ones among them.
    pub share: f64,
    /// Those that ended within the window, over its length.
    pub requests_per_s: f64,
}

/// The generator's own delays: where they come near a latency, that latency is the generator's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generator {
    /// From when a request was due to when the generator came to it, in milliseconds.
    pub send_lag_ms: Option<Distribution>,
    /// How late a timer of 10 ms fires, in milliseconds; up to 1 is its grain.
    pub event_loop_lag_ms: Option<Distribution>,
    /// The part of a core that its only thread took. Near 1 it is the bottleneck.
    pub cpu_share: f64,
}

/// What a run leaves behind.
pub(crate) struct Measured {
    pub(crate) records: Vec<Record>,
    pub(crate) window: Duration,
    pub(crate) peak_running: u64,
    pub(crate) num_repeated: u64,
    pub(crate) num_resent: u64,
    pub(crate) event_loop_lag_us: Vec<u32>,
    pub(crate) cpu_share: f64,
}

impl Report {
    pub(crate) fn new(settings: &Settings, model: &str, started: Duration, runs: Vec<Run>) -> Self {
        let target = &settings.target;
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            started_unix_s: started.as_secs(),
            url: target.url.clone(),
            route: target.api.path(),
            model: model.to_owned(),
            temperature: target.temperature,
            ignore_eos: target.ignore_eos,
            seed: settings.seed,
            prompts: prompts_in_words(&settings.prompts),
            stop: match settings.stop {
                Stop::Requests(number) => format!("{number} requests"),
                Stop::Duration(length) => format!("{} s", length.as_secs_f64()),
            },
            runs,
        }
    }

    /// Requests that failed, over all runs.
    pub fn num_failed(&self) -> u64 {
        self.runs.iter().map(|run| run.failures.count).sum()
    }
}

impl Run {
    pub(crate) fn new(load: Load, measured: Measured, goals: &[Goal]) -> Self {
        let seconds = measured.window.as_secs_f64();
        let ended: Vec<&Record> = measured.records.iter().filter(|record| record.outcome.is_ok()).collect();
        let each = |value: &dyn Fn(&Record) -> Option<u32>| {
            distribution(&mut ended.iter().filter_map(|record| value(record)).collect::<Vec<_>>())
        };
        let mut gaps_us: Vec<u32> = ended.iter().flat_map(|record| &record.stream.gaps_us).copied().collect();
        let mut lag_us: Vec<u32> = measured.records.iter().map(|record| micros(record.lag)).collect();
        let mut event_loop_lag_us = measured.event_loop_lag_us;
        let (concurrency, rate) = match load {
            Load::Closed { concurrency, .. } => (Some(concurrency), None),
            Load::Open { rate, .. } => (None, Some(rate)),
        };
        Self {
            name: load_in_words(load),
            concurrency,
            rate,
            window_s: seconds,
            peak_running: measured.peak_running,
            num_ended: ended.len() as u64,
            failures: failures(&measured.records),
            num_repeated_prompts: measured.num_repeated,
            num_resent: measured.num_resent,
            tokens: tokens(&ended),
            throughput: throughput(&ended, seconds),
            ttft_ms: each(&|record| record.stream.first_text.map(micros)),
            itl_ms: distribution(&mut gaps_us),
            tpot_ms: each(&|record| record.stream.tpot_us()),
            e2e_ms: each(&|record| Some(micros(record.took))),
            goodput: (!goals.is_empty()).then(|| goodput(&ended, measured.records.len(), seconds, goals)),
            generator: Generator {
                send_lag_ms: distribution(&mut lag_us),
                event_loop_lag_ms: distribution(&mut event_loop_lag_us),
                cpu_share: measured.cpu_share,
            },
        }
    }
}

fn load_in_words(load: Load) -> String {
    match load {
        Load::Closed { concurrency: 1, .. } => "1 stream".to_owned(),
        Load::Closed { concurrency, .. } => format!("{concurrency} streams"),
        Load::Open { rate, arrivals: Arrivals::Poisson } => format!("{rate}/s, Poisson"),
        Load::Open { rate, arrivals: Arrivals::Constant } => format!("{rate}/s, constant"),
    }
}

fn prompts_in_words(prompts: &Prompts) -> String {
    match prompts {
        Prompts::File { path, output_tokens: None } => path.display().to_string(),
        Prompts::File { path, output_tokens: Some(number) } => format!("{}, {number} tokens out", path.display()),
        Prompts::Generated { input_words, output_tokens, shared_prefix } => format!(
            "{input_words} random words in, {:.0}% of them shared, {output_tokens} tokens out",
            shared_prefix * 100.0
        ),
    }
}

fn failures(records: &[Record]) -> Failures {
    let mut failures = Failures::default();
    for failure in records.iter().filter_map(|record| record.outcome.as_ref().err()) {
        failures.count += 1;
        let class = failures.classes.entry(failure.class());
        class.or_insert_with(|| FailureClass { count: 0, first: failure.words().to_owned() }).count += 1;
    }
    failures
}

fn tokens(ended: &[&Record]) -> Tokens {
    Tokens {
        prompt: ended.iter().map(|record| record.stream.counts.prompt).sum(),
        output: ended.iter().map(|record| record.stream.output_tokens()).sum(),
        num_counted_by_server: ended.iter().filter(|record| record.stream.counts.output.is_some()).count() as u64,
    }
}

fn throughput(ended: &[&Record], seconds: f64) -> Throughput {
    // Begun with 0, for the sum of nothing is -0.
    let output =
        ended.iter().map(|record| record.stream.output_tokens_in_window()).fold(0.0, |sum, tokens| sum + tokens);
    let begun = ended.iter().filter(|record| record.stream.first_in_window);
    let prompt: Option<u64> = begun.map(|record| record.stream.counts.prompt).sum();
    Throughput {
        requests_per_s: ended.iter().filter(|record| record.ended_in_window).count() as f64 / seconds,
        output_tokens_per_s: output / seconds,
        total_tokens_per_s: prompt.map(|prompt| (prompt as f64 + output) / seconds),
    }
}

fn goodput(ended: &[&Record], num_all: usize, seconds: f64, goals: &[Goal]) -> Goodput {
    let good: Vec<_> = ended.iter().filter(|record| goals.iter().all(|goal| keeps(record, goal))).collect();
    Goodput {
        goals: goals.iter().map(|goal| format!("{}:{}", goal.metric.name(), goal.limit_ms)).collect(),
        share: good.len() as f64 / num_all.max(1) as f64,
        requests_per_s: good.iter().filter(|record| record.ended_in_window).count() as f64 / seconds,
    }
}

/// What a request has no value of, as an answer of one token has no gaps, breaks no goal.
fn keeps(record: &Record, goal: &Goal) -> bool {
    let worst_us = match goal.metric {
        Metric::Ttft => record.stream.first_text.map(micros),
        Metric::Itl => record.stream.gaps_us.iter().max().copied(),
        Metric::Tpot => record.stream.tpot_us(),
        Metric::E2e => Some(micros(record.took)),
    };
    worst_us.is_none_or(|worst| f64::from(worst) / 1e3 <= goal.limit_ms)
}

#[cfg(test)]
mod tests;
