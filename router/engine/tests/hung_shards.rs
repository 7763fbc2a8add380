//! A shard that hangs, in a step or idle: seen by its silence or at the step's deadline, killed, replaced.

mod support;

use std::time::Duration;

use forebay_engine::fake_worker::{FakeEvent, FakeScript, FakeSizes, Fault, StepFault, engine_config};
use forebay_engine::{EngineConfig, EngineState, Heartbeat};
use support::{STEP, complete, loss, read, ready, request, script, starts, step};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_hung_shard_is_killed_at_the_steps_deadline() {
    let sizes = FakeSizes { world_size: 2, ..FakeSizes::default() };
    let fault = Fault::Step { incarnation: 1, rank: 1, step_id: 5, kind: StepFault::Hang };
    let (engine, worker) = ready(FakeScript { sizes, ..script([fault]) }, engine_config()).await;
    let began = Instant::now();
    let generation = engine.submit(request([5], 200)).await.expect("taken");
    assert_eq!(loss(&engine).await, "step `5` was not answered within `5000` ms by shard 1");
    let limit = 5 * STEP + engine_config().step_timeout + Duration::from_millis(500);
    assert!(began.elapsed() <= limit, "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(worker.events().contains(&FakeEvent::Killed));
    let (tokens, end) = read(generation).await;
    assert_eq!((tokens.len(), end), (200, Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_long_line_of_steps_is_no_hang() {
    let config = EngineConfig { step_timeout: Duration::from_millis(25), ..engine_config() };
    let (engine, _) = ready(script([]), config).await;
    assert_eq!(complete(&engine, request([5], 200)).await.len(), 200);
}

/// Asks every second; three missed answers are the end.
fn attentive() -> EngineConfig {
    let heartbeat = Heartbeat { interval: Duration::from_secs(1), max_missed: 3 };
    EngineConfig { heartbeat, step_timeout: Duration::from_secs(600), ..engine_config() }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_hangs_while_nobody_asks_is_seen_by_its_silence() {
    let sizes = FakeSizes { world_size: 2, ..FakeSizes::default() };
    let fault = Fault::Silence { incarnation: 1, rank: 1, unanswered: 2..u32::MAX };
    let (engine, worker) = ready(FakeScript { sizes, ..script([fault]) }, attentive()).await;
    let began = Instant::now();
    let reason = loss(&engine).await;
    let (silence, why) = reason.split_once(" ms: ").expect("how long, and why");
    assert!(silence.starts_with("shard 1 has been silent for `40"), "{reason}");
    assert_eq!(why, "it missed `3` heartbeats in a row, which is the limit: no answer within `1000` ms");
    assert!((6_000..6_300).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(engine.state_changed(&engine.state()).await, EngineState::Ready);
    assert!(worker.events().contains(&FakeEvent::Killed));
    assert_eq!(complete(&engine, request([5], 20)).await.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_slow_step_of_shards_that_answer_heartbeats_is_left_alone() {
    let slow = FakeScript { step_delay: Duration::from_secs(100), ..FakeScript::default() };
    let (engine, worker) = ready(slow, attentive()).await;
    assert_eq!(complete(&engine, request([5], 3)).await.len(), 3);
    assert_eq!(starts(&worker.events()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_shard_is_not_waited_for_until_the_steps_deadline() {
    let silence = Fault::Silence { incarnation: 1, rank: 0, unanswered: 1..u32::MAX };
    let (engine, worker) = ready(script([step(5, StepFault::Hang), silence]), attentive()).await;
    let generation = engine.submit(request([5], 200)).await.expect("taken");
    let began = Instant::now();
    let reason = loss(&engine).await;
    assert!(reason.starts_with("shard 0 has been silent for"), "{reason}");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let (tokens, end) = read(generation).await;
    assert_eq!((tokens.len(), end), (200, Ok(())));
    assert_eq!(worker.violations(), Vec::<String>::new());
    assert_eq!(starts(&worker.events()), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_missed_now_and_then_lose_nobody() {
    let missed = |unanswered| Fault::Silence { incarnation: 1, rank: 0, unanswered };
    let (engine, worker) = ready(script([missed(0..2), missed(3..5), missed(6..8)]), attentive()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(engine.state(), EngineState::Ready);
    assert_eq!(starts(&worker.events()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_of_another_life_loses_the_group() {
    let (engine, _) = ready(script([Fault::Heartbeat { incarnation: 1, rank: 0, says: 7 }]), attentive()).await;
    assert_eq!(loss(&engine).await, "shard 0 answers heartbeats as incarnation `7`, expected `1`");
    assert_eq!(engine.state_changed(&engine.state()).await, EngineState::Ready);
}
