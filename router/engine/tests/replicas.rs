//! Several groups: who gets a request, and what the loss of one means for the others.

mod support;

use std::time::Duration;

use forebay_engine::fake_worker::{FakeGroup, FakeHandle, FakeScript, FakeSizes, Fault, StepFault, engine_config};
use forebay_engine::{Engine, EngineConfig, EngineError, EngineRequest, EngineState, Generation, GenerationEvent};
use forebay_wire::v1::StepPlan;
use futures::future::join_all;
use support::{STEP, complete, eventually, idle_of, prompt, read, request};
use tokio::time::Instant;

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

/// A group that dies in a step and never comes back.
fn dying_for_good(step_id: u64) -> FakeScript {
    let dies = Fault::Step { incarnation: 1, rank: 0, step_id, kind: StepFault::Exit };
    let faults = std::iter::once(dies).chain((2..99).map(|incarnation| Fault::Start { incarnation }));
    FakeScript { faults: faults.collect(), ..slow() }
}

/// A group that dies in step 5 and never comes back, and one that serves; the first is given up after a second.
async fn failing_and_sound(sound: FakeScript) -> (Engine, Vec<FakeHandle>) {
    let groups = [dying_for_good(5), sound].map(FakeGroup::new);
    let workers = groups.iter().map(FakeGroup::handle).collect();
    let config = EngineConfig { restart_timeout: Duration::from_secs(1), ..engine_config() };
    let engine = Engine::start_replicas(groups.map(|group| (config.clone(), group)));
    assert_eq!(engine.all_started().await, Ok(()));
    (engine, workers)
}

/// All that a generation yields.
async fn events_of(mut generation: Generation) -> Vec<Result<GenerationEvent, EngineError>> {
    let mut events = Vec::new();
    while let Some(event) = generation.next().await {
        events.push(event);
    }
    events
}

/// `Started` as often as it comes, the token ids, and the end.
fn told(events: &[Result<GenerationEvent, EngineError>]) -> (usize, Vec<u32>, Option<EngineError>) {
    let num_starts = events.iter().filter(|event| matches!(event, Ok(GenerationEvent::Started { .. }))).count();
    let tokens = events.iter().filter_map(|event| match event {
        Ok(GenerationEvent::Token { token_id, .. }) => Some(*token_id),
        _ => None,
    });
    (num_starts, tokens.collect(), events.last().and_then(|event| event.clone().err()))
}

#[expect(clippy::expect_used, reason = "a helper of tests")]
/// What eight requests are told.
async fn eight(engine: &Engine) -> Vec<(usize, Vec<u32>, Option<EngineError>)> {
    let running = join_all((0..8).map(|n| engine.submit(request(prompt(n, 20 + n), 40)))).await;
    let events = join_all(running.into_iter().map(|generation| events_of(generation.expect("taken")))).await;
    events.iter().map(|events| told(events)).collect()
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_group_that_is_given_up_go_on_with_another_and_nothing_is_told_twice() {
    let (alone, _) = replicas([slow()]).await;
    let undisturbed = eight(&alone).await;
    let (engine, workers) = failing_and_sound(slow()).await;
    let moved = eight(&engine).await;
    assert_eq!(moved, undisturbed);
    assert!(moved.iter().all(|(num_starts, tokens, end)| (*num_starts, tokens.len(), end) == (1, 40, &None)));
    let counts: Vec<_> = workers.iter().map(num_sequences).collect();
    assert_eq!(counts, [4, 8], "half of them moved");
    assert_eq!(workers[1].violations(), Vec::<String>::new());
    assert_eq!(engine.state(), EngineState::Ready);
    complete(&engine, request([5], 4)).await;
    eventually("nothing is left", || engine.stats().running + engine.stats().queued == 0).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_after_the_move_is_cancelled_where_it_is() {
    let (engine, workers) = failing_and_sound(slow()).await;
    let moving = engine.submit(request([5], 1000)).await.expect("taken");
    let staying = engine.submit(request([6], 1000)).await.expect("taken");
    eventually("it runs in the second group", || num_sequences(&workers[1]) == 2).await;
    assert_eq!(engine.stats().running, 2);
    drop(moving);
    eventually("it is cancelled", || engine.stats().running == 1).await;
    drop(staying);
    eventually("both are", || engine.stats().running + engine.stats().queued == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_moves_keeps_its_deadline() {
    let (engine, workers) = failing_and_sound(slow()).await;
    let began = Instant::now();
    let wanted = EngineRequest { timeout: Some(Duration::from_secs(4)), ..request([5], 1000) };
    let (tokens, end) = read(engine.submit(wanted).await.expect("taken")).await;
    assert_eq!(end, Err(EngineError::Deadline));
    assert!(tokens.len() > 5 && num_sequences(&workers[1]) == 1, "it had moved: {} tokens", tokens.len());
    assert!((4_000..4_100).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_other_group_holds_ends_with_the_limit_that_it_breaks() {
    let sizes = FakeSizes { num_blocks: 5, ..FakeSizes::default() };
    let (engine, _) = failing_and_sound(FakeScript { sizes, ..slow() }).await;
    // The API refuses what the smallest group does not hold; the engine asks the group that it goes to.
    let (_, end) = read(engine.submit(request([5], 100)).await.expect("taken")).await;
    let reason = "another group cannot take it over: the request may reach 101 tokens, the limit is 64";
    assert_eq!(end, Err(EngineError::GroupLost(reason.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn when_the_last_group_is_given_up_all_end_with_an_error() {
    let (engine, _) = failing_and_sound(dying_for_good(200)).await;
    let running = join_all((0..4).map(|n| engine.submit(request([n + 5], 1000)))).await;
    let ends = join_all(running.into_iter().map(|generation| read(generation.expect("taken")))).await;
    let reason = "the model is not ready: its workers did not start (given up after `1` s of restarts: \
                  shard 0 exited with code 1)";
    for (tokens, end) in ends {
        assert_eq!(end.map_err(|error| error.to_string()), Err(reason.to_owned()));
        assert!(tokens.len() > 10, "it moved first: {} tokens", tokens.len());
    }
    assert!(matches!(engine.state(), EngineState::Failed(_)));
}
