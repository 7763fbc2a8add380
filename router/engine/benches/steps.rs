//! What a step costs outside the model: scheduler, conversion, gRPC through an in-memory pipe, the fake worker's own
//! work, and delivery to every reader. `cargo bench -p forebay-engine`.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a benchmark prints and may fail")]

use std::time::Instant;

use forebay_engine::fake_worker::{FakeGroup, FakeScript, FakeSizes, engine_config};
use forebay_engine::{Engine, EngineRequest, EngineState};
use forebay_wire::SamplingParams;
use futures::future::join_all;

const TOKENS: u32 = 1000;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for (streams, shards) in [(1, 1), (8, 1), (32, 1), (64, 1), (256, 1), (32, 4)] {
        runtime.block_on(measure(streams, shards));
    }
}

async fn measure(streams: u32, shards: u32) {
    let sizes = FakeSizes {
        world_size: shards,
        num_blocks: 1 << 15,
        max_sequences: streams,
        max_plan_tokens: 8192,
        ..FakeSizes::default()
    };
    let engine = Engine::start(engine_config(), FakeGroup::new(FakeScript { sizes, ..FakeScript::default() }));
    assert_eq!(engine.state_changed(&EngineState::Starting).await, EngineState::Ready);
    let began = Instant::now();
    let readers = (0..streams).map(|n| tokio::spawn(read(engine.clone(), n)));
    let tokens: u32 = join_all(readers).await.into_iter().map(|tokens| tokens.expect("reads")).sum();
    let took = began.elapsed().as_secs_f64() * 1e6;
    let (step, token) = (took / f64::from(TOKENS), took / f64::from(tokens));
    println!("{streams:4} streams, {shards} shards: {step:7.1} us a step, {token:6.2} us a token");
}

async fn read(engine: Engine, n: u32) -> u32 {
    let request = EngineRequest {
        token_ids: vec![n % 1000 + 5; 16],
        max_new_tokens: TOKENS,
        min_new_tokens: 0,
        stop_token_ids: vec![2],
        priority: 0,
        timeout: None,
        cache_salt: u64::from(n),
        sampling: SamplingParams::default(),
        logprobs: false,
        prompt_logprobs: false,
    };
    let mut generation = engine.submit(request).await.expect("taken");
    let mut events = 0;
    while let Some(event) = generation.next().await {
        event.expect("goes well");
        events += 1;
    }
    events - 2
}
