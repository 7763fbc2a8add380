//! The loop as its users see it: streams, run-ahead, bounds, drain. Time is paused wherever it matters.

mod support;

use std::time::Duration;

use forebay_engine::fake_worker::{FakeEvent, FakeScript, FakeSizes, FakeTokens, Fault, StepFault, engine_config};
use forebay_engine::{
    EngineConfig, EngineError, EngineState, GenerationEvent, Heartbeat, PromptLogprob, TokenLogprobs,
};
use forebay_scheduler::FinishReason;
use forebay_wire::SamplingParams;
use futures::future::join_all;
use support::{complete, eventually, first_token, idle, prompt, read, ready, request, started, usual};

const STEP: Duration = Duration::from_millis(10);

fn slow(tokens: FakeTokens) -> FakeScript {
    FakeScript { tokens, step_delay: STEP, ..FakeScript::default() }
}

fn echo() -> FakeTokens {
    FakeTokens::Echo { first: 3, last: 1023 }
}

#[tokio::test(start_paused = true)]
async fn a_request_yields_start_tokens_and_end_in_this_order() {
    let (engine, worker) = usual(FakeScript::sequence([7, 8, 9])).await;
    let mut generation = engine.submit(request([5, 6], 2)).await.expect("taken");
    let mut events = Vec::new();
    while let Some(event) = generation.next().await {
        events.push(event.expect("goes well"));
    }
    let is_token =
        |event: &GenerationEvent, id| matches!(event, GenerationEvent::Token { token_id, .. } if *token_id == id);
    assert!(matches!(events[0], GenerationEvent::Started { num_cached_tokens: 0, .. }), "{events:?}");
    assert!(is_token(&events[1], 7) && is_token(&events[2], 8), "{events:?}");
    assert_eq!(events[3..], [GenerationEvent::Finished(FinishReason::Length)]);
    assert_eq!(generation.next().await, None);
    assert_eq!(worker.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_stop_token_ends_a_request_and_is_its_last_token() {
    let (engine, _) = usual(FakeScript::sequence([7, 8, 9])).await;
    let mut wanted = request([5, 6], 100);
    wanted.stop_token_ids = vec![400, 8];
    let mut generation = engine.submit(wanted).await.expect("taken");
    let mut last = None;
    while let Some(event) = generation.next().await {
        last = Some(event.expect("goes well"));
    }
    assert_eq!(last, Some(GenerationEvent::Finished(FinishReason::StopToken(8))));
    idle(&engine).await;
}

#[expect(clippy::expect_used, reason = "a helper of tests")]
/// Where in the record a shard took and answered each step.
fn order(events: &[FakeEvent], rank: u32, step_id: u64) -> (usize, usize) {
    let place = |wanted: FakeEvent| events.iter().position(|event| *event == wanted).expect("recorded");
    (place(FakeEvent::Received { rank, step_id }), place(FakeEvent::Answered { rank, step_id }))
}

#[tokio::test(start_paused = true)]
async fn the_next_plan_is_with_the_worker_before_a_step_is_answered() {
    let (engine, worker) = usual(slow(echo())).await;
    complete(&engine, request([5, 6], 20)).await;
    let events = worker.events();
    for step_id in 0..19 {
        let (next_received, _) = order(&events, 0, step_id + 1);
        let (_, answered) = order(&events, 0, step_id);
        assert!(next_received < answered, "plan {} came after result {step_id}", step_id + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn without_run_ahead_every_plan_waits_for_the_last_result() {
    let (engine, worker) = ready(slow(echo()), EngineConfig { run_ahead: 0, ..engine_config() }).await;
    complete(&engine, request([5, 6], 20)).await;
    let events = worker.events();
    for step_id in 0..19 {
        assert!(order(&events, 0, step_id).1 < order(&events, 0, step_id + 1).0);
    }
}

#[tokio::test(start_paused = true)]
async fn steps_follow_each_other_without_a_pause() {
    let (engine, _) = usual(slow(echo())).await;
    let began = tokio::time::Instant::now();
    complete(&engine, request([5, 6], 100)).await;
    let took = began.elapsed();
    // Paused time counts only the worker's sleeps: 100 steps, and no step waits for the router.
    assert!((STEP * 100..STEP * 101).contains(&took), "{took:?}");
}

#[tokio::test]
async fn sixty_four_requests_together_yield_what_each_yields_alone() {
    // Fewer blocks than they need together, so that some are preempted and computed again.
    let sizes = FakeSizes { num_blocks: 120, world_size: 2, ..FakeSizes::default() };
    let script = FakeScript { sizes, ..FakeScript::default() };
    let requests = || (0..64).map(|n| request(prompt(n, 20 + n), 40));
    let (alone, _) = ready(script.clone(), EngineConfig { run_ahead: 0, ..engine_config() }).await;
    let mut expected = Vec::new();
    for request in requests() {
        expected.push(complete(&alone, request).await);
    }
    for run_ahead in [0, 1, 3] {
        let (together, worker) = ready(script.clone(), EngineConfig { run_ahead, ..engine_config() }).await;
        let texts = join_all(requests().map(|request| complete(&together, request))).await;
        assert_eq!(texts, expected, "run-ahead {run_ahead}");
        assert_eq!(worker.violations(), Vec::<String>::new());
        let stats = together.stats();
        assert!(stats.prefix_hit_tokens > 0 && stats.preemptions > 0, "{stats:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_shard_gets_every_plan() {
    let sizes = FakeSizes { world_size: 3, ..FakeSizes::default() };
    let (engine, worker) = usual(FakeScript { sizes, ..slow(echo()) }).await;
    complete(&engine, request([5, 6], 10)).await;
    eventually("all have received all", || {
        let events = worker.events();
        (0..3).all(|rank| (0..10).all(|step_id| events.contains(&FakeEvent::Received { rank, step_id })))
    })
    .await;
    assert_eq!(worker.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn sampling_parameters_reach_the_worker_unopened() {
    let (engine, worker) = usual(FakeScript::default()).await;
    let mut wanted = request([5, 6], 2);
    wanted.sampling = SamplingParams { temperature: 0.7, top_k: 3, seed: 99, ..SamplingParams::default() };
    let sampling = wanted.sampling.clone();
    complete(&engine, wanted).await;
    assert_eq!(worker.samplings(), [sampling]);
}

#[tokio::test(start_paused = true)]
async fn log_probabilities_come_with_their_tokens_and_only_to_those_who_asked() {
    let (engine, _) = usual(slow(FakeTokens::Sequence(vec![16, 17]))).await;
    let mut wanted = request([5, 6], 2);
    wanted.logprobs = true;
    wanted.sampling.num_top_logprobs = 2;
    let (mut asked, mut silent) =
        (engine.submit(wanted).await.expect("taken"), engine.submit(request([5, 7], 2)).await.expect("taken"));
    let mut found = Vec::new();
    while let Some(event) = asked.next().await {
        if let Ok(GenerationEvent::Token { token_id, logprobs, .. }) = event {
            found.push((token_id, logprobs));
        }
    }
    let best = |logprob: f32, id| Some(TokenLogprobs { logprob, top: vec![(id, logprob), (id + 1, logprob - 1.0)] });
    assert_eq!(found, [(16, best(-0.125, 16)), (17, best(-0.25, 17))]);
    while let Some(event) = silent.next().await {
        assert!(!matches!(event, Ok(GenerationEvent::Token { logprobs: Some(_), .. })), "{event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn prompt_log_probabilities_come_chunk_by_chunk_before_the_first_token() {
    let (engine, _) = ready(slow(echo()), EngineConfig { max_plan_tokens: Some(64), ..engine_config() }).await;
    let mut wanted = request(prompt(1, 150), 1);
    wanted.prompt_logprobs = true;
    wanted.sampling.num_prompt_logprobs = 0;
    let mut generation = engine.submit(wanted).await.expect("taken");
    let (mut entries, mut chunks) = (Vec::<PromptLogprob>::new(), 0);
    while let Some(event) = generation.next().await {
        match event.expect("goes well") {
            GenerationEvent::PromptLogprobs(chunk) => {
                chunks += 1;
                entries.extend(chunk);
            }
            GenerationEvent::Token { .. } => assert_eq!(entries.len(), 149),
            _ => {}
        }
    }
    assert_eq!(chunks, 3);
    assert!(entries.iter().map(|entry| entry.position).eq(1..150));
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_served_is_refused_with_its_reason() {
    let script = FakeScript { features: vec!["logprobs".to_owned()], ..FakeScript::default() };
    let (engine, _) = ready(script, EngineConfig { max_total_tokens: Some(100), ..engine_config() }).await;
    let refusal = async |request| match engine.submit(request).await {
        Err(EngineError::Invalid(message)) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(request([5, 1024], 2)).await, "token id `1024` is outside the vocabulary of `1024`");
    assert_eq!(refusal(request([5, 6], 99)).await, "the request may reach 101 tokens, the limit is 100");
    assert!(refusal(request([], 2)).await.contains("at least one prompt token"));
    let mut wanted = request([5, 6], 2);
    wanted.prompt_logprobs = true;
    assert_eq!(refusal(wanted).await, "this worker does not offer `prompt_logprobs`");
    let mut wanted = request([5, 6], 2);
    wanted.sampling.grammar_id = "json".to_owned();
    assert_eq!(refusal(wanted).await, "this worker does not offer `grammar`");
}

#[tokio::test(start_paused = true)]
async fn a_full_line_refuses_with_a_time_to_come_back() {
    let sizes = FakeSizes { max_sequences: 1, ..FakeSizes::default() };
    let config = EngineConfig { max_queued: 2, ..engine_config() };
    let (engine, _) = ready(FakeScript { sizes, ..slow(echo()) }, config).await;
    let mut running = engine.submit(request([5], 50)).await.expect("taken");
    first_token(&mut running).await;
    let waiting = [engine.submit(request([5], 5)).await, engine.submit(request([5], 5)).await];
    assert!(waiting.iter().all(Result::is_ok));
    match engine.submit(request([5], 5)).await {
        Err(EngineError::Overloaded { message, retry_after }) => {
            assert_eq!(message, "the queue is full: 2 requests wait, the limit is 2");
            assert!(retry_after > Duration::ZERO);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_sequence_that_fails_fails_alone() {
    let message = "logits are not finite".to_owned();
    let poison = Fault::Sequence { token_id: 77, kind: 2, message: message.clone() };
    let by_prompt =
        FakeTokens::Function(std::sync::Arc::new(
            |ids, num_prompt| {
                if ids[0] == 50 && ids.len() - num_prompt == 3 { 77 } else { 10 }
            },
        ));
    let (engine, worker) = usual(FakeScript { faults: vec![poison], ..slow(by_prompt) }).await;
    let bad = engine.submit(request([50, 6], 10)).await.expect("taken");
    let good = engine.submit(request([51, 6], 10)).await.expect("taken");
    let ((bad_tokens, bad_end), (good_tokens, good_end)) = tokio::join!(read(bad), read(good));
    assert_eq!((bad_tokens, bad_end), (vec![10; 3], Err(EngineError::Sequence { kind: 2, message })));
    assert_eq!((good_tokens, good_end), (vec![10; 10], Ok(())));
    assert_eq!(worker.violations(), Vec::<String>::new());
    idle(&engine).await;
}

#[tokio::test(start_paused = true)]
async fn a_step_without_memory_is_tried_again_and_changes_no_text() {
    let fault = |step_id| Fault::Step { incarnation: 1, rank: 0, step_id, kind: StepFault::OutOfMemory };
    let (sound, _) = usual(slow(echo())).await;
    let (failing, worker) = usual(FakeScript { faults: vec![fault(1), fault(9)], ..slow(echo()) }).await;
    let requests = || (0..8).map(|n| request(prompt(n, 30), 20));
    let expected = join_all(requests().map(|request| complete(&sound, request))).await;
    let texts = join_all(requests().map(|request| complete(&failing, request))).await;
    assert_eq!(texts, expected);
    assert_eq!(worker.violations(), Vec::<String>::new());
    assert_eq!(failing.state(), EngineState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_running_request() {
    let (engine, _) = usual(slow(echo())).await;
    let mut wanted = request([5, 6], 1000);
    wanted.timeout = Some(Duration::from_millis(95));
    let (tokens, end) = read(engine.submit(wanted).await.expect("taken")).await;
    assert_eq!(end, Err(EngineError::Deadline));
    assert!((8..=9).contains(&tokens.len()), "{}", tokens.len());
    idle(&engine).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_waiting_request_while_a_long_step_runs() {
    let sizes = FakeSizes { max_sequences: 1, ..FakeSizes::default() };
    let script = FakeScript { sizes, step_delay: Duration::from_secs(3), ..FakeScript::default() };
    let (engine, _) = usual(script).await;
    let _running = engine.submit(request([5], 50)).await.expect("taken");
    let mut wanted = request([6], 5);
    wanted.timeout = Some(Duration::from_millis(500));
    let began = tokio::time::Instant::now();
    let (_, end) = read(engine.submit(wanted).await.expect("taken")).await;
    assert_eq!(end, Err(EngineError::Deadline));
    assert!(began.elapsed() < Duration::from_millis(510), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_lags_is_told_so_and_nobody_waits_for_it() {
    let config = EngineConfig { max_buffered_events: 4, ..engine_config() };
    let (engine, _) = ready(slow(echo()), config).await;
    let lagging = engine.submit(request([5, 6], 100)).await.expect("taken");
    let tokens = complete(&engine, request([5, 7], 100)).await;
    assert_eq!(tokens.len(), 100);
    assert_eq!(engine.stats().running, 0);
    let (tokens, end) = read(lagging).await;
    // `Started` and three tokens fill the four places.
    assert_eq!((tokens.len(), end), (3, Err(EngineError::SlowReader { limit: 4 })));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_comes_late_but_within_the_bound_gets_everything() {
    let config = EngineConfig { max_buffered_events: 4, ..engine_config() };
    let (engine, _) = ready(slow(FakeTokens::Sequence(vec![7, 8, 9])), config).await;
    let late = engine.submit(request([5, 6], 3)).await.expect("taken");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(read(late).await, (vec![7, 8, 9], Ok(())));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_before_the_workers_are_ready() {
    let script = FakeScript { load_delay: Duration::from_secs(3), ..FakeScript::default() };
    let (engine, _) = started(script, engine_config());
    assert_eq!(engine.state(), EngineState::Starting);
    assert_eq!(engine.worker_info(), None);
    let refused = engine.submit(request([5], 1)).await.expect_err("not ready");
    assert_eq!(refused.to_string(), "the model is not ready: the model is loading");
    assert_eq!(engine.state_changed(&EngineState::Starting).await, EngineState::Ready);
    complete(&engine, request([5], 1)).await;
}

#[tokio::test(start_paused = true)]
async fn the_limits_are_the_least_of_operator_model_and_pool() {
    let sizes = FakeSizes { num_blocks: 11, max_position_embeddings: 200, max_run_ahead: 2, ..FakeSizes::default() };
    let script = FakeScript { sizes, ..FakeScript::default() };
    let info = async |config| ready(script.clone(), config).await.0.worker_info().expect("ready");
    let by_pool = info(engine_config()).await;
    assert_eq!((by_pool.max_total_tokens, by_pool.run_ahead, by_pool.max_sequences), (160, 1, 64));
    let config = EngineConfig {
        max_total_tokens: Some(90),
        max_sequences: Some(8),
        max_plan_tokens: Some(32),
        run_ahead: 3,
        ..engine_config()
    };
    let by_operator = info(config).await;
    assert_eq!((by_operator.max_total_tokens, by_operator.run_ahead), (90, 2));
    assert_eq!((by_operator.max_sequences, by_operator.max_plan_tokens), (8, 32));
    let narrow = info(EngineConfig { max_plan_tokens: Some(16), ..engine_config() }).await;
    assert_eq!((narrow.max_sequences, narrow.max_plan_tokens), (16, 16), "a plan holds a decode of everyone");
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_everything_finish_and_takes_nothing_new() {
    let sizes = FakeSizes { max_sequences: 1, ..FakeSizes::default() };
    let (engine, worker) = usual(FakeScript { sizes, ..slow(echo()) }).await;
    let mut running = engine.submit(request([5], 20)).await.expect("taken");
    first_token(&mut running).await;
    let waiting = engine.submit(request([6], 20)).await.expect("taken");
    let drain = engine.drain(Duration::from_secs(60));
    let work = async {
        tokio::time::sleep(STEP).await;
        assert_eq!(engine.state(), EngineState::Draining);
        let refused = engine.submit(request([5], 1)).await.expect_err("draining");
        assert_eq!(refused.to_string(), "the model is not ready: the server is shutting down");
        (read(running).await.1, read(waiting).await)
    };
    let ((), (running_end, (waiting_tokens, waiting_end))) = tokio::join!(drain, work);
    assert_eq!((running_end, waiting_end, waiting_tokens.len()), (Ok(()), Ok(()), 20));
    assert_eq!(worker.events().last(), Some(&FakeEvent::Killed));
    assert!(engine.submit(request([5], 1)).await.is_err());
    engine.drain(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_out_of_time_ends_the_rest_with_an_error() {
    let (engine, worker) = usual(slow(echo())).await;
    let endless = engine.submit(request([5], 2000)).await.expect("taken");
    let began = tokio::time::Instant::now();
    let ((), (tokens, end)) = tokio::join!(engine.drain(Duration::from_millis(205)), read(endless));
    assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
    assert!((18..=20).contains(&tokens.len()), "{}", tokens.len());
    assert_eq!(end, Err(EngineError::Unavailable("the server is shutting down".to_owned())));
    assert_eq!(worker.events().last(), Some(&FakeEvent::Killed));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_nobody_holds_kills_its_group_and_leaves_no_task() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (engine, worker) = usual(slow(echo())).await;
    let mut generation = engine.submit(request([5], 2000)).await.expect("taken");
    drop(engine);
    first_token(&mut generation).await;
    drop(generation);
    eventually("the group is killed", || worker.events().last() == Some(&FakeEvent::Killed)).await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    eventually("no task is left", || alive() == before).await;
}

/// Wake-ups of an engine that nobody asks, in half an hour.
async fn idle_wakes(heartbeat: Heartbeat) -> u64 {
    let (_engine, _) = ready(FakeScript::default(), EngineConfig { heartbeat, ..engine_config() }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let wakes = || tokio::runtime::Handle::current().metrics().worker_park_count(0);
    let before = wakes();
    tokio::time::sleep(Duration::from_secs(1800)).await;
    wakes() - before
}

#[tokio::test(start_paused = true)]
async fn an_idle_engine_sleeps_between_heartbeats() {
    let heartbeat = Heartbeat { interval: Duration::from_secs(5), max_missed: 5 };
    let without = idle_wakes(Heartbeat { interval: Duration::from_secs(3600), ..heartbeat }).await;
    // This test's own wake-ups, and nothing like a loop.
    assert!(without < 20, "{without} wake-ups");
    let with = idle_wakes(heartbeat).await;
    let heartbeats = 1800 / heartbeat.interval.as_secs();
    // Sent, taken, answered and heard, each a wake-up of its own.
    assert!(with < 6 * heartbeats, "{with} wake-ups for {heartbeats} heartbeats");
}

#[tokio::test]
async fn without_prefix_caching_an_equal_prompt_is_computed_anew() {
    for prefix_caching in [true, false] {
        let (engine, _) = ready(FakeScript::default(), EngineConfig { prefix_caching, ..engine_config() }).await;
        complete(&engine, request(prompt(1, 64), 2)).await;
        let again = engine.submit(request(prompt(1, 64), 2)).await.expect("taken").next().await;
        let Some(Ok(GenerationEvent::Started { num_cached_tokens, .. })) = again else { panic!("{again:?}") };
        assert_eq!(num_cached_tokens > 0, prefix_caching);
    }
}
