//! The first start of a group, and the handshakes that are refused.

mod support;

use std::time::Duration;

use forebay_engine::fake_worker::{FakeEvent, FakeScript, FakeSizes, Fault, engine_config};
use forebay_engine::{EngineConfig, EngineState};
use support::{request, script, started};

#[tokio::test(start_paused = true)]
async fn a_group_that_never_was_ready_has_failed() {
    for (fault, reason) in [
        (Fault::Start { incarnation: 1 }, "shard 0 exited with code 1"),
        (Fault::ExitWhileLoading { incarnation: 1 }, "shard 0 exited with code 1"),
        (
            Fault::Refuse { incarnation: 1, message: "num_shard `2` does not divide `9` heads".to_owned() },
            "shard 0 did not come up: num_shard `2` does not divide `9` heads; shard 0 exited with code 2",
        ),
        (Fault::NeverReady { incarnation: 1 }, "the workers were not ready within `10` s"),
    ] {
        let (engine, worker) = started(script([fault]), engine_config());
        let state = engine.state_changed(&EngineState::Starting).await;
        assert_eq!(state, EngineState::Failed(reason.to_owned()));
        let refused = engine.submit(request([5], 1)).await.expect_err("failed");
        assert_eq!(refused.to_string(), format!("the model is not ready: its workers did not start ({reason})"));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(worker.events(), [FakeEvent::Started { incarnation: 1 }, FakeEvent::Killed]);
        engine.drain(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_start() {
    let (engine, worker) = started(script([Fault::NeverReady { incarnation: 1 }]), engine_config());
    tokio::time::sleep(Duration::from_millis(10)).await;
    engine.drain(Duration::from_secs(60)).await;
    assert_eq!(worker.events().last(), Some(&FakeEvent::Killed));
}

#[tokio::test(start_paused = true)]
async fn shards_that_disagree_are_refused_by_name() {
    let cases = [
        ("protocol", 9, "shard 1 says protocol `9`, expected `1`"),
        ("incarnation", 9, "shard 1 says incarnation `9`, expected `1`"),
        ("rank", 0, "shard 1 says rank `0`, expected `1`"),
        ("world_size", 3, "shard 1 says world_size `3`, expected `2`"),
        ("num_blocks", 9, "shard 1 says num_blocks `9`, shard 0 says `1024`"),
        ("block_size", 9, "shard 1 says block_size `9`, shard 0 says `16`"),
        ("max_sequences", 9, "shard 1 says max_sequences `9`, shard 0 says `64`"),
        ("max_plan_tokens", 9, "shard 1 says max_plan_tokens `9`, shard 0 says `512`"),
        ("max_run_ahead", 9, "shard 1 says max_run_ahead `9`, shard 0 says `3`"),
        ("vocab_size", 9, "shard 1 says vocab_size `9`, shard 0 says `1024`"),
        ("max_position_embeddings", 9, "shard 1 says max_position_embeddings `9`, shard 0 says `2048`"),
        ("dtype", 9, "shard 1 says dtype `float9`, shard 0 says `float32`"),
        (
            "grammar",
            0,
            "shard 1 says features `grammar, logprobs, prompt_logprobs`, shard 0 says `logprobs, prompt_logprobs`",
        ),
    ];
    for (field, value, reason) in cases {
        let sizes = FakeSizes { world_size: 2, ..FakeSizes::default() };
        let fault = Fault::Handshake { incarnation: 1, rank: 1, field, value };
        let (engine, _) = started(FakeScript { sizes, ..script([fault]) }, engine_config());
        let state = engine.state_changed(&EngineState::Starting).await;
        assert_eq!(state, EngineState::Failed(format!("the workers' handshake is refused: {reason}")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_tokenizer_of_another_model_is_refused() {
    let (engine, _) = started(script([]), EngineConfig { tokenizer_vocab_size: 1025, ..engine_config() });
    let state = engine.state_changed(&EngineState::Starting).await;
    let reason =
        "the tokenizer has ids up to `1024`, the model's vocab_size is `1024`: they belong to different models";
    assert_eq!(state, EngineState::Failed(format!("the workers' handshake is refused: {reason}")));
}

#[tokio::test(start_paused = true)]
async fn an_operators_limit_of_nothing_is_refused_by_name() {
    let config = EngineConfig { max_sequences: Some(0), ..engine_config() };
    let (engine, _) = started(script([]), config);
    let state = engine.state_changed(&EngineState::Starting).await;
    let reason = "the workers' handshake is refused: the operator's max_sequences is `0`, at least `1` is needed";
    assert_eq!(state, EngineState::Failed(reason.to_owned()));
}
