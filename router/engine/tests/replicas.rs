//! Several groups: who gets a request, and what the loss of one means for the others.

mod support;

use std::time::Duration;

use forebay_engine::fake_worker::{FakeGroup, FakeHandle, FakeScript, Fault, engine_config};
use forebay_engine::{Engine, EngineState};
use forebay_wire::v1::StepPlan;
use futures::future::join_all;
use support::{complete, eventually, idle_of, prompt, read, request};

const STEP: Duration = Duration::from_millis(10);

fn slow() -> FakeScript {
    FakeScript { step_delay: STEP, ..FakeScript::default() }
}

/// An engine over as many groups as there are scripts, all started.
async fn replicas(scripts: impl IntoIterator<Item = FakeScript>) -> (Engine, Vec<FakeHandle>) {
    let groups: Vec<_> = scripts.into_iter().map(FakeGroup::new).collect();
    let workers = groups.iter().map(FakeGroup::handle).collect();
    let engine = Engine::start_replicas(groups.into_iter().map(|group| (engine_config(), group)));
    assert_eq!(engine.all_started().await, Ok(()));
    (engine, workers)
}

fn num_sequences(worker: &FakeHandle) -> usize {
    worker.plans().iter().map(|plan: &StepPlan| plan.new_sequences.len()).sum()
}

#[tokio::test(start_paused = true)]
async fn requests_that_share_nothing_are_spread_evenly() {
    let (engine, workers) = replicas([slow(), slow(), slow()]).await;
    let running = join_all((0..12).map(|n| engine.submit(request([n + 3, 5, 6], 20)))).await;
    let ends = join_all(running.into_iter().map(|generation| read(generation.expect("taken")))).await;
    assert!(ends.iter().all(|(tokens, end)| (tokens.len(), end) == (20, &Ok(()))), "{ends:?}");
    assert_eq!(workers.iter().map(num_sequences).collect::<Vec<_>>(), [4, 4, 4]);
    idle_of(&engine, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_where_its_prefix_lies() {
    let (engine, workers) = replicas([slow(), slow()]).await;
    let _first_busy = engine.submit(request([3], 1000)).await.expect("taken");
    complete(&engine, request(prompt(1, 40), 4)).await;
    assert_eq!(workers.iter().map(num_sequences).collect::<Vec<_>>(), [1, 1]);
    // Now the second group is idle and holds the prompt; make it the busier one.
    let _second_busy = [
        engine.submit(request(prompt(1, 40), 1000)).await.expect("taken"),
        engine.submit(request(prompt(1, 40), 1000)).await.expect("taken"),
    ];
    complete(&engine, request(prompt(1, 40), 4)).await;
    assert_eq!(workers.iter().map(num_sequences).collect::<Vec<_>>(), [1, 4]);
    complete(&engine, request([9, 9], 4)).await;
    assert_eq!(workers.iter().map(num_sequences).collect::<Vec<_>>(), [2, 4], "nothing cached: the least load");
}

#[tokio::test(start_paused = true)]
async fn the_engine_is_ready_while_one_group_serves() {
    let (engine, workers) = replicas([slow(), slow()]).await;
    workers[0].kill_shard(0, "killed by signal 9");
    eventually("the first group restarts", || workers[0].events().len() > 1).await;
    assert_eq!(engine.state(), EngineState::Ready);
    complete(&engine, request([5], 4)).await;
    assert_eq!(workers.iter().map(num_sequences).collect::<Vec<_>>(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_does_not_come_up_at_first_is_named() {
    let broken = FakeScript { faults: vec![Fault::Start { incarnation: 1 }], ..FakeScript::default() };
    let groups = [FakeScript::default(), broken].map(|script| (engine_config(), FakeGroup::new(script)));
    let engine = Engine::start_replicas(groups);
    assert_eq!(engine.all_started().await, Err("replica 1: shard 0 exited with code 1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_over_when_all_groups_have_finished() {
    let (engine, _) = replicas([slow(), slow()]).await;
    let short = engine.submit(request([5], 5)).await.expect("taken");
    let long = engine.submit(request([6], 50)).await.expect("taken");
    let drained = async {
        engine.drain(Duration::from_secs(60)).await;
        engine.state()
    };
    let (state, short, long) = tokio::join!(drained, read(short), read(long));
    assert_eq!(state, EngineState::Draining);
    assert_eq!((short.0.len(), long.0.len()), (5, 50));
    assert!(engine.submit(request([5], 1)).await.is_err());
}
