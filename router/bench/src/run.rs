//! The loops: closed (so many streams) and open (so many a second), each after its warm-up.
//!
//! In an open loop every request has a time at which it is due, fixed beforehand, and its latencies count from then. A
//! generator, or a server, that stands still makes them longer, never fewer ("coordinated omission" is what a tool
//! suffers from that measures only what it managed to send).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::arrivals;
use crate::body;
use crate::client::{Client, Shared};
use crate::dataset::{Prompt, Source};
use crate::error::BenchError;
use crate::lag::LagClock;
use crate::live::{self, Live, Progress};
use crate::record::{Record, Window};
use crate::report::{Measured, Report, Run};
use crate::settings::{Arrivals, Load, Settings, Stop, Target};

/// Runs every load in turn, on this thread alone.
pub fn run(settings: &Settings, progress: Option<Progress>) -> Result<Report, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| BenchError::System { what: "cannot start the event loop", error })?;
    // Spawned, so that it is one task among the others and not polled each time that one of them wakes.
    let settings = settings.clone();
    let main = runtime.spawn(async move { run_all(&settings, progress).await });
    match runtime.block_on(main) {
        Ok(report) => report,
        Err(error) => Err(BenchError::System { what: "the generator broke", error: std::io::Error::other(error) }),
    }
}

async fn run_all(settings: &Settings, progress: Option<Progress>) -> Result<Report, BenchError> {
    let source = Source::load(&settings.prompts, settings.seed)?;
    body::check(&settings.target, &source.prompt(0))?;
    let client = Client::new(&settings.target, settings.timeout).await?;
    let model = match &settings.target.model {
        Some(model) => model.clone(),
        None if !settings.target.api.needs_model() => String::new(),
        None => client.first_model().await?,
    };
    let mut session = Session {
        asker: Arc::new(Asker { target: settings.target.clone(), model, source, client: Arc::new(client) }),
        next_index: Arc::new(AtomicU64::new(0)),
        num_warmed_up: 0,
        progress: progress.map(|progress| Arc::new(Mutex::new(progress))),
    };
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut runs = Vec::new();
    for &load in &settings.loads {
        session.warm_up(load, settings.num_warm_up).await;
        runs.push(session.measure(load, settings).await);
    }
    Ok(Report::new(settings, &session.asker.model, started, runs))
}

/// Makes requests by their numbers.
struct Asker {
    target: Target,
    model: String,
    source: Source,
    client: Shared,
}

impl Asker {
    fn body(&self, prompt: &Prompt) -> Bytes {
        body::body(&self.target, &self.model, prompt)
    }
}

/// What goes on from run to run: prompts are not repeated while there are others.
struct Session {
    asker: Arc<Asker>,
    next_index: Arc<AtomicU64>,
    num_warmed_up: u64,
    progress: Option<Arc<Mutex<Progress>>>,
}

impl Session {
    /// Requests that are not counted, as many at once as the load has streams. Their failures show in the run.
    async fn warm_up(&mut self, load: Load, number: u32) {
        let num_streams = match load {
            Load::Closed { concurrency, .. } => concurrency.min(number),
            Load::Open { .. } => 1,
        };
        let now = Instant::now();
        let window = Window { start: now, end: None };
        let live = Arc::new(Live::default());
        let first = self.num_warmed_up;
        self.num_warmed_up += u64::from(number);
        let mut streams = JoinSet::new();
        for stream in 0..u64::from(num_streams) {
            let (asker, live) = (Arc::clone(&self.asker), Arc::clone(&live));
            streams.spawn(async move {
                for index in (first + stream..first + u64::from(number)).step_by(num_streams as usize) {
                    let body = asker.body(&asker.source.warm_up_prompt(index));
                    asker.client.ask(body, Instant::now(), &window, &live).await;
                }
            });
        }
        streams.join_all().await;
    }

    async fn measure(&self, load: Load, settings: &Settings) -> Run {
        self.asker.client.take_num_resent();
        let live = Arc::new(Live::default());
        let shown = self.progress.as_ref().map(|progress| live::show(Arc::clone(&live), Arc::clone(progress)));
        let lag = LagClock::start();
        let start = Instant::now();
        let ramp_up = if let Load::Closed { ramp_up, .. } = load { ramp_up } else { Duration::ZERO };
        let end = if let Stop::Duration(length) = settings.stop { Some(start + ramp_up + length) } else { None };
        let window = Window { start: start + if end.is_some() { ramp_up } else { Duration::ZERO }, end };
        let looped = Loop {
            asker: Arc::clone(&self.asker),
            next_index: Arc::clone(&self.next_index),
            live: Arc::clone(&live),
            start,
            window,
            stop: settings.stop,
        };
        let before = self.next_index.load(Ordering::Relaxed);
        let records = match load {
            Load::Closed { concurrency, ramp_up } => looped.closed(concurrency, ramp_up).await,
            Load::Open { rate, arrivals } => looped.open(rate, arrivals, settings.seed).await,
        };
        let took = end.map_or(start.elapsed(), |end| end - window.start);
        if let Some(shown) = shown {
            shown.abort();
        }
        if let Some(progress) = &self.progress {
            live::finish(progress);
        }
        let num_prompts = self.asker.source.num_prompts();
        let (event_loop_lag_us, cpu_share) = lag.stop();
        let measured = Measured {
            records,
            window: took,
            peak_running: live.peak_running(),
            num_repeated: num_prompts.map_or(0, |number| repeated(before, &self.next_index, number as u64)),
            num_resent: self.asker.client.take_num_resent(),
            event_loop_lag_us,
            cpu_share,
        };
        Run::new(load, measured, &settings.goals)
    }
}

/// How many of a run's requests asked what had been asked before.
fn repeated(before: u64, next_index: &AtomicU64, num_prompts: u64) -> u64 {
    next_index.load(Ordering::Relaxed).saturating_sub(before.max(num_prompts))
}

/// One run on its way.
struct Loop {
    asker: Arc<Asker>,
    next_index: Arc<AtomicU64>,
    live: Arc<Live>,
    start: Instant,
    window: Window,
    stop: Stop,
}

impl Loop {
    async fn closed(self, concurrency: u32, ramp_up: Duration) -> Vec<Record> {
        let looped = Arc::new(self);
        let records = Arc::new(Mutex::new(Vec::new()));
        let num_begun = Arc::new(AtomicU64::new(0));
        let mut streams = JoinSet::new();
        for stream in 0..concurrency {
            let (looped, records, num_begun) = (Arc::clone(&looped), Arc::clone(&records), Arc::clone(&num_begun));
            let begin = looped.start + ramp_up.mul_f64(f64::from(stream) / f64::from(concurrency));
            streams.spawn(async move {
                let mut due = begin;
                tokio::time::sleep_until(begin.into()).await;
                while let Some(body) = looped.next_body(&num_begun) {
                    let record = looped.asker.client.ask(body, due, &looped.window, &looped.live).await;
                    due += record.took;
                    records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
                }
            });
        }
        streams.join_all().await;
        let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *records)
    }

    /// None when the run sends no more.
    fn next_body(&self, num_begun: &AtomicU64) -> Option<Bytes> {
        let over = match self.stop {
            Stop::Requests(number) => num_begun.fetch_add(1, Ordering::Relaxed) >= number,
            Stop::Duration(_) => self.window.end.is_some_and(|end| Instant::now() >= end),
        };
        (!over).then(|| self.body())
    }

    fn body(&self) -> Bytes {
        self.asker.body(&self.asker.source.prompt(self.next_index.fetch_add(1, Ordering::Relaxed)))
    }

    async fn open(self, rate: f64, arrivals: Arrivals, seed: u64) -> Vec<Record> {
        let looped = Arc::new(self);
        let mut requests = JoinSet::new();
        for time in arrivals::times(rate, arrivals, looped.stop, seed) {
            let due = looped.start + time;
            // Made before it is due, so that making it delays nothing.
            let body = looped.body();
            tokio::time::sleep_until(due.into()).await;
            let looped = Arc::clone(&looped);
            requests.spawn(async move { looped.asker.client.ask(body, due, &looped.window, &looped.live).await });
        }
        requests.join_all().await
    }
}
