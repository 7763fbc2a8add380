//! Compares what the shards say of themselves with each other and with the router; pure.

use forebay_scheduler::Limits;
use forebay_wire::{PROTOCOL_VERSION, v1::HandshakeResponse};

use crate::error::GroupError;
use crate::handle::{EngineConfig, WorkerInfo};

/// Rows of a matrix product that cost hardly more than one: fewer prompt tokens a step would be slower, not smoother.
const MIN_CHUNK_TOKENS: u32 = 16;

/// What the group offers once all ranks agree; `answers` lie by rank.
pub(crate) fn agree(
    answers: &[HandshakeResponse],
    incarnation: u64,
    config: &EngineConfig,
) -> Result<WorkerInfo, GroupError> {
    let Some(first) = answers.first() else {
        return Err(GroupError::Handshake("the group has no shards".to_owned()));
    };
    for (rank, answer) in answers.iter().enumerate() {
        check_identity(answer, rank, answers.len(), incarnation).map_err(GroupError::Handshake)?;
        check_equal(first, answer).map_err(GroupError::Handshake)?;
    }
    check_sizes(first, config).map_err(GroupError::Handshake)?;
    Ok(worker_info(first, config))
}

/// The bounds the scheduler works within.
pub(crate) fn limits(info: &WorkerInfo, config: &EngineConfig) -> Limits {
    Limits {
        block_size: info.block_size,
        num_blocks: info.num_blocks,
        max_cached_blocks: config.max_cached_tokens.map_or(u32::MAX, |tokens| tokens / info.block_size),
        max_sequences: info.max_sequences,
        max_plan_tokens: info.max_plan_tokens,
        step_target: config.step_target,
        min_chunk_tokens: MIN_CHUNK_TOKENS,
        run_ahead: info.run_ahead,
        max_draft_tokens: 0,
        max_queued: config.max_queued,
        max_queued_tokens: config.max_queued_tokens,
        max_total_tokens: info.max_total_tokens,
    }
}

/// A shard must be who the router takes it for.
fn check_identity(answer: &HandshakeResponse, rank: usize, world_size: usize, incarnation: u64) -> Result<(), String> {
    let expectations = [
        ("protocol", u64::from(answer.protocol), u64::from(PROTOCOL_VERSION)),
        ("incarnation", answer.incarnation, incarnation),
        ("rank", u64::from(answer.rank), rank as u64),
        ("world_size", u64::from(answer.world_size), world_size as u64),
    ];
    match expectations.into_iter().find(|(_, got, expected)| got != expected) {
        Some((name, got, expected)) => Err(format!("shard {rank} says {name} `{got}`, expected `{expected}`")),
        None => Ok(()),
    }
}

/// All shards run the same plans, so they must offer the same.
fn check_equal(first: &HandshakeResponse, other: &HandshakeResponse) -> Result<(), String> {
    let numbers = |of: &HandshakeResponse| {
        [
            ("num_blocks", of.num_blocks),
            ("block_size", of.block_size),
            ("max_sequences", of.max_sequences),
            ("max_plan_tokens", of.max_plan_tokens),
            ("max_run_ahead", of.max_run_ahead),
            ("vocab_size", of.vocab_size),
            ("max_position_embeddings", of.max_position_embeddings),
        ]
        .map(|(name, value)| (name, value.to_string()))
    };
    let words = |of: &HandshakeResponse| {
        [
            ("dtype", of.dtype.clone()),
            ("kv_cache_dtype", of.kv_cache_dtype.clone()),
            ("features", sorted(&of.features).join(", ")),
            ("worker_version", of.worker_version.clone()),
        ]
    };
    let ours = numbers(first).into_iter().chain(words(first));
    let theirs = numbers(other).into_iter().chain(words(other));
    match ours.zip(theirs).find(|(ours, theirs)| ours != theirs) {
        Some(((name, expected), (_, got))) => {
            Err(format!("shard {} says {name} `{got}`, shard 0 says `{expected}`", other.rank))
        }
        None => Ok(()),
    }
}

fn sorted(features: &[String]) -> Vec<String> {
    let mut features = features.to_vec();
    features.sort_unstable();
    features
}

/// What no scheduler could work with, and a tokenizer of another model.
fn check_sizes(answer: &HandshakeResponse, config: &EngineConfig) -> Result<(), String> {
    let minima = [
        ("num_blocks", answer.num_blocks, 2),
        ("block_size", answer.block_size, 1),
        ("max_sequences", answer.max_sequences, 1),
        ("max_plan_tokens", answer.max_plan_tokens, 1),
        ("vocab_size", answer.vocab_size, 1),
        ("max_position_embeddings", answer.max_position_embeddings, 1),
    ];
    if let Some((name, got, least)) = minima.into_iter().find(|(_, got, least)| got < least) {
        return Err(format!("{name} is `{got}`, at least `{least}` is needed"));
    }
    let flags = [
        ("max_total_tokens", config.max_total_tokens),
        ("max_plan_tokens", config.max_plan_tokens),
        ("max_sequences", config.max_sequences),
    ];
    if let Some((name, _)) = flags.into_iter().find(|(_, flag)| *flag == Some(0)) {
        return Err(format!("the operator's {name} is `0`, at least `1` is needed"));
    }
    if config.tokenizer_vocab_size > answer.vocab_size {
        return Err(format!(
            "the tokenizer has ids up to `{}`, the model's vocab_size is `{}`: they belong to different models",
            config.tokenizer_vocab_size - 1,
            answer.vocab_size
        ));
    }
    Ok(())
}

fn worker_info(answer: &HandshakeResponse, config: &EngineConfig) -> WorkerInfo {
    let pool_tokens = u64::from(answer.num_blocks - 1) * u64::from(answer.block_size);
    let model_tokens = answer.max_position_embeddings.min(u32::try_from(pool_tokens).unwrap_or(u32::MAX));
    let at_most = |flag: Option<u32>, offered: u32| flag.unwrap_or(offered).min(offered);
    let max_plan_tokens = at_most(config.max_plan_tokens, answer.max_plan_tokens);
    WorkerInfo {
        max_total_tokens: at_most(config.max_total_tokens, model_tokens),
        world_size: answer.world_size,
        num_blocks: answer.num_blocks,
        block_size: answer.block_size,
        // A plan must have room for a decode of everyone who runs.
        max_sequences: at_most(config.max_sequences, answer.max_sequences).min(max_plan_tokens),
        max_plan_tokens,
        run_ahead: config.run_ahead.min(answer.max_run_ahead),
        vocab_size: answer.vocab_size,
        dtype: answer.dtype.clone(),
        kv_cache_dtype: answer.kv_cache_dtype.clone(),
        device: answer.device.clone(),
        attention_backend: answer.attention_backend.clone(),
        features: answer.features.clone(),
    }
}
