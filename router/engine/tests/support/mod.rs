//! What the tests of this folder share: an engine over a fake worker, requests, and readers.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

use std::time::Duration;

use forebay_engine::fake_worker::{
    FakeEvent, FakeGroup, FakeHandle, FakeScript, FakeSizes, Fault, StepFault, engine_config,
};
use forebay_engine::{Engine, EngineConfig, EngineError, EngineRequest, EngineState, Generation, GenerationEvent};
use forebay_wire::SamplingParams;

/// How long a step of a `script` takes.
pub(crate) const STEP: Duration = Duration::from_millis(10);

pub(crate) fn script(faults: impl Into<Vec<Fault>>) -> FakeScript {
    FakeScript { step_delay: STEP, faults: faults.into(), ..FakeScript::default() }
}

pub(crate) fn step(step_id: u64, kind: StepFault) -> Fault {
    Fault::Step { incarnation: 1, rank: 0, step_id, kind }
}

/// The incarnations that were started, in order.
pub(crate) fn starts(events: &[FakeEvent]) -> Vec<u64> {
    let started = |event: &FakeEvent| match event {
        FakeEvent::Started { incarnation } => Some(*incarnation),
        _ => None,
    };
    events.iter().filter_map(started).collect()
}

/// Why the group was lost, as soon as it is.
pub(crate) async fn loss(engine: &Engine) -> String {
    match engine.state_changed(&EngineState::Ready).await {
        EngineState::Restarting(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// A ready engine and the view of its worker.
pub(crate) async fn ready(script: FakeScript, config: EngineConfig) -> (Engine, FakeHandle) {
    let (engine, worker) = started(script, config);
    assert_eq!(engine.state_changed(&EngineState::Starting).await, EngineState::Ready);
    (engine, worker)
}

/// An engine that may not be ready yet.
pub(crate) fn started(script: FakeScript, config: EngineConfig) -> (Engine, FakeHandle) {
    let group = FakeGroup::new(script);
    let worker = group.handle();
    (Engine::start(config, group), worker)
}

/// The fake worker's usual engine.
pub(crate) async fn usual(script: FakeScript) -> (Engine, FakeHandle) {
    ready(script, engine_config()).await
}

pub(crate) fn request(prompt: impl Into<Vec<u32>>, max_new_tokens: u32) -> EngineRequest {
    EngineRequest {
        token_ids: prompt.into(),
        max_new_tokens,
        min_new_tokens: 0,
        stop_token_ids: Vec::new(),
        priority: 0,
        timeout: None,
        cache_salt: 0,
        sampling: SamplingParams { seed: 1, ..SamplingParams::default() },
        logprobs: false,
        prompt_logprobs: false,
    }
}

/// A prompt of its own for every `n`, behind a start that all share.
pub(crate) fn prompt(n: u32, len: u32) -> Vec<u32> {
    (0..len)
        .map(|position| if position < len / 2 { position % 97 + 5 } else { (position * 31 + n * 7) % 500 + 5 })
        .collect()
}

/// All tokens of a generation, and how it ended.
pub(crate) async fn read(mut generation: Generation) -> (Vec<u32>, Result<(), EngineError>) {
    let mut tokens = Vec::new();
    while let Some(event) = generation.next().await {
        match event {
            Ok(GenerationEvent::Token { token_id, .. }) => tokens.push(token_id),
            Ok(_) => {}
            Err(error) => return (tokens, Err(error)),
        }
    }
    (tokens, Ok(()))
}

/// Submits and reads to a good end.
pub(crate) async fn complete(engine: &Engine, request: EngineRequest) -> Vec<u32> {
    let (tokens, end) = read(engine.submit(request).await.expect("taken")).await;
    assert_eq!(end, Ok(()));
    tokens
}

/// Reads until the first token.
pub(crate) async fn first_token(generation: &mut Generation) -> u32 {
    loop {
        if let GenerationEvent::Token { token_id, .. } = generation.next().await.expect("goes on").expect("goes well") {
            return token_id;
        }
    }
}

/// Waits until `holds`, for two seconds at most.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("two seconds later still not: {what}");
}

/// Nobody runs, waits or holds a block.
pub(crate) async fn idle(engine: &Engine) {
    idle_of(engine, 1).await;
}

/// The same of several groups.
pub(crate) async fn idle_of(engine: &Engine, num_groups: u32) {
    eventually("nothing is held", || {
        let stats = engine.stats();
        let FakeSizes { num_blocks, .. } = FakeSizes::default();
        stats.queued == 0
            && stats.running == 0
            && stats.blocks_held == 0
            && stats.plans_in_flight == 0
            && stats.blocks_fenced == 0
            && stats.blocks_free + stats.blocks_cached == num_groups * (num_blocks - 1)
    })
    .await;
}
