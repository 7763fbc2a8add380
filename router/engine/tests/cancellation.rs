//! Dropping a generation gives everything back, in whatever phase it is.

mod support;

use std::time::Duration;

use forebay_engine::EngineConfig;
use forebay_engine::fake_worker::{FakeScript, FakeSizes, engine_config};
use support::{complete, eventually, first_token, idle, prompt, read, ready, request, usual};

fn slow() -> FakeScript {
    FakeScript { step_delay: Duration::from_millis(10), ..FakeScript::default() }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_generation_is_out_of_the_next_plan() {
    let (engine, worker) = usual(slow()).await;
    let mut dropped = engine.submit(request([5, 6], 1000)).await.expect("taken");
    let mut kept = engine.submit(request([5, 7], 1000)).await.expect("taken");
    first_token(&mut dropped).await;
    first_token(&mut kept).await;
    drop(dropped);
    let plans = worker.plans().len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // One plan may have been under way; those after it hold one row.
    let later = &worker.plans()[plans + 1..];
    assert!(later.len() > 5 && later.iter().all(|plan| plan.row_slots.len() == 4), "{}", later.len());
    assert_eq!(engine.stats().running, 1);
    assert_eq!(worker.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_generation_dropped_in_the_line_leaves_it() {
    let sizes = FakeSizes { max_sequences: 1, ..FakeSizes::default() };
    let (engine, _) = usual(FakeScript { sizes, ..slow() }).await;
    let running = engine.submit(request([5], 20)).await.expect("taken");
    let waiting = engine.submit(request([6], 20)).await.expect("taken");
    drop(waiting);
    assert_eq!(read(running).await.0.len(), 20);
    idle(&engine).await;
    assert_eq!(engine.stats().plans_in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_submission_dropped_half_way_leaves_nothing_behind() {
    let (engine, _) = usual(slow()).await;
    for _ in 0..10 {
        let mut submission = Box::pin(engine.submit(request([5], 1000)));
        // Polled once: the driver has it, the caller has no answer yet.
        assert!(futures::poll!(&mut submission).is_pending());
        drop(submission);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    idle(&engine).await;
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_aborts_at_random_phases_leave_nothing_held() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // Few blocks and slots, so that aborts meet waiting, prefilling, decoding and preempted sequences.
    let sizes = FakeSizes { num_blocks: 80, max_sequences: 24, max_plan_tokens: 64, ..FakeSizes::default() };
    let script = FakeScript { sizes, step_delay: Duration::from_micros(300), ..FakeScript::default() };
    let (engine, worker) = ready(script, EngineConfig { run_ahead: 2, ..engine_config() }).await;
    let mut random = Random(7);
    let mut readers = tokio::task::JoinSet::new();
    for n in 0..1200 {
        let engine = engine.clone();
        let (length, tokens) = (5 + random.below(120) as u32, 1 + random.below(160) as u32);
        let patience = Duration::from_micros(random.below(120_000));
        let aborts = n % 6 != 0;
        readers.spawn(async move {
            let wanted = request(prompt(n, length), tokens);
            if aborts {
                let reading = async { read(engine.submit(wanted).await.expect("taken")).await };
                let _ = tokio::time::timeout(patience, reading).await;
            } else {
                assert_eq!(complete(&engine, wanted).await.len() as u32, tokens);
            }
        });
        if random.below(8) == 0 {
            tokio::time::sleep(Duration::from_millis(random.below(4))).await;
        }
    }
    while let Some(joined) = readers.join_next().await {
        joined.expect("every request that was not aborted has ended well");
    }
    eventually("blocks and slots are back", || {
        let stats = engine.stats();
        (stats.blocks_held, stats.running, stats.queued, stats.plans_in_flight, stats.blocks_fenced) == (0, 0, 0, 0, 0)
            && stats.blocks_free + stats.blocks_cached == 79
    })
    .await;
    assert_eq!(worker.violations(), Vec::<String>::new());
    let stats = engine.stats();
    assert!(stats.preemptions > 0 && stats.prefix_hit_tokens > 0, "too easy: {stats:?}");
    drop(engine);
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    eventually("no task is left", || alive() == before).await;
}
