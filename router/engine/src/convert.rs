//! Scheduler types to wire types and back: the only file that names both.
//!
//! Arrays are little-endian `u32` or `f32` in `bytes`. A plan's arrays are cut from one buffer; a result's stay in
//! the buffer of the received frame.

use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use forebay_scheduler::{
    NewSequence, RequestId, RowFlags, SampledRow, SequenceError, SequenceRef, StepError, StepPlan, StepResult,
};
use forebay_wire::{SamplingParams, v1 as wire};

use crate::error::GroupError;
use crate::handle::{EngineRequest, PromptLogprob, TokenLogprobs};
use crate::metrics::StepTimings;

/// What a request's rows ask of the worker, beyond what the scheduler adds itself.
pub(crate) fn row_flags(request: &EngineRequest) -> RowFlags {
    let asked = [
        (!request.sampling.grammar_id.is_empty(), wire::RowFlag::NeedsMask),
        (request.logprobs, wire::RowFlag::Logprobs),
        (request.prompt_logprobs, wire::RowFlag::PromptLogprobs),
    ];
    RowFlags(asked.into_iter().filter(|(wants, _)| *wants).fold(0, |bits, (_, flag)| bits | flag as u32))
}

/// The plan as every shard gets it. `sampling_of` answers the parameters of a request that appears.
pub(crate) fn plan_to_wire<'a>(
    plan: &StepPlan,
    sampling_of: impl Fn(RequestId) -> Option<&'a SamplingParams>,
) -> Result<wire::StepPlan, GroupError> {
    let mut buffer = BytesMut::with_capacity(4 * num_words(plan));
    let new_sequences = plan
        .new_sequences
        .iter()
        .map(|new| sequence_to_wire(new, sampling_of(new.id), &mut buffer))
        .collect::<Result<_, _>>()?;
    Ok(wire::StepPlan {
        step_id: plan.step_id,
        released_slots: pack(&mut buffer, plan.released.iter().map(|gone| gone.slot)),
        released_epochs: pack(&mut buffer, plan.released.iter().map(|gone| gone.epoch)),
        new_sequences,
        append_slots: pack(&mut buffer, plan.appends.iter().map(|append| append.slot)),
        append_counts: pack(&mut buffer, plan.appends.iter().map(|append| append.block_ids.len() as u32)),
        append_blocks: pack(&mut buffer, plan.appends.iter().flat_map(|append| append.block_ids.iter().copied())),
        num_decodes: plan.num_decodes,
        row_slots: pack(&mut buffer, plan.rows.iter().map(|row| row.sequence.slot)),
        row_epochs: pack(&mut buffer, plan.rows.iter().map(|row| row.sequence.epoch)),
        row_num_tokens: pack(&mut buffer, plan.rows.iter().map(|row| row.num_tokens)),
        row_flags: pack(&mut buffer, plan.rows.iter().map(|row| row.flags.0)),
    })
}

fn sequence_to_wire(
    new: &NewSequence,
    sampling: Option<&SamplingParams>,
    buffer: &mut BytesMut,
) -> Result<wire::NewSequence, GroupError> {
    let sampling =
        sampling.ok_or_else(|| GroupError::Lost(format!("a plan names the unknown request `{}`", new.id.0)))?;
    Ok(wire::NewSequence {
        slot: new.sequence.slot,
        epoch: new.sequence.epoch,
        token_ids: pack(buffer, new.token_ids.iter().copied()),
        num_prompt_tokens: new.num_prompt_tokens,
        num_computed_tokens: new.num_computed_tokens,
        block_ids: pack(buffer, new.block_ids.iter().copied()),
        sampling: Some(sampling.clone()),
    })
}

/// How many `u32` the plan's arrays hold: its buffer is allocated once.
fn num_words(plan: &StepPlan) -> usize {
    let sequences: usize = plan.new_sequences.iter().map(|new| new.token_ids.len() + new.block_ids.len()).sum();
    let appends: usize = plan.appends.iter().map(|append| 2 + append.block_ids.len()).sum();
    sequences + appends + 2 * plan.released.len() + 4 * plan.rows.len()
}

fn pack(buffer: &mut BytesMut, values: impl Iterator<Item = u32>) -> Bytes {
    values.for_each(|value| buffer.put_u32_le(value));
    buffer.split().freeze()
}

/// What rank 0 said of a step: the part the scheduler reads, and the part only requests read.
#[derive(Debug)]
pub(crate) struct Answer {
    /// For `Scheduler::apply`.
    pub(crate) result: StepResult,
    /// By `Event::Token::result_index`.
    pub(crate) logprobs: Logprobs,
    /// In position order for each sequence.
    pub(crate) prompt_logprobs: Vec<(SequenceRef, Vec<PromptLogprob>)>,
    pub(crate) timings: Option<StepTimings>,
    /// When it was read off the stream.
    pub(crate) received: Instant,
}

/// Reads a result that has just come; an error says how it contradicts itself.
pub(crate) fn answer_from_wire(result: wire::StepResult) -> Result<Answer, GroupError> {
    let step_id = result.step_id;
    read_answer(result)
        .map_err(|detail| GroupError::Lost(format!("the result of step `{step_id}` is malformed: {detail}")))
}

fn read_answer(result: wire::StepResult) -> Result<Answer, String> {
    let sampled = read_sampled(&result)?;
    let num_tokens = result.token_ids.len() / 4;
    let logprobs = Logprobs::read(result.logprobs, &result.top_counts, result.top_ids, result.top_logprobs)?;
    if !logprobs.is_empty() && logprobs.len() != num_tokens {
        return Err(format!("`{}` log-probabilities for `{num_tokens}` tokens", logprobs.len()));
    }
    Ok(Answer {
        result: StepResult {
            step_id: result.step_id,
            sampled,
            errors: result.errors.into_iter().map(sequence_error).collect(),
            step_error: result.step_error.map(|error| StepError { kind: error.kind, message: error.message }),
        },
        logprobs,
        prompt_logprobs: result.prompt_logprobs.into_iter().map(read_prompt_logprobs).collect::<Result<_, _>>()?,
        timings: result.timings.map(|timings| StepTimings {
            forward: Duration::from_micros(u64::from(timings.forward)),
            sample: Duration::from_micros(u64::from(timings.sample)),
        }),
        received: Instant::now(),
    })
}

fn sequence_error(error: wire::SequenceError) -> SequenceError {
    SequenceError {
        sequence: SequenceRef { slot: error.slot, epoch: error.epoch },
        kind: error.kind,
        message: error.message,
    }
}

fn read_sampled(result: &wire::StepResult) -> Result<Vec<SampledRow>, String> {
    let num_rows = words("slots", &result.slots)?;
    for (name, array) in [("epochs", &result.epochs), ("num_tokens", &result.num_tokens)] {
        let len = words(name, array)?;
        if len != num_rows {
            return Err(format!("`{name}` has `{len}` entries, `slots` has `{num_rows}`"));
        }
    }
    let num_ids = words("token_ids", &result.token_ids)?;
    let total: u64 = read_u32s(&result.num_tokens).map(u64::from).sum();
    if total != num_ids as u64 {
        return Err(format!("`num_tokens` sums to `{total}`, `token_ids` has `{num_ids}` entries"));
    }
    let mut ids = read_u32s(&result.token_ids);
    let sequences = read_u32s(&result.slots).zip(read_u32s(&result.epochs));
    let rows = sequences.zip(read_u32s(&result.num_tokens)).map(|((slot, epoch), count)| SampledRow {
        sequence: SequenceRef { slot, epoch },
        token_ids: ids.by_ref().take(count as usize).collect(),
    });
    Ok(rows.collect())
}

fn read_prompt_logprobs(chunk: wire::PromptLogprobs) -> Result<(SequenceRef, Vec<PromptLogprob>), String> {
    let num_ranks = words("ranks", &chunk.ranks)?;
    let logprobs = Logprobs::read(chunk.logprobs, &chunk.top_counts, chunk.top_ids, chunk.top_logprobs)?;
    if num_ranks != logprobs.len() {
        return Err(format!("`ranks` has `{num_ranks}` entries, `logprobs` has `{}`", logprobs.len()));
    }
    let places = (chunk.first_position..).zip(read_u32s(&chunk.ranks));
    let entries = places.enumerate().filter_map(|(index, (position, rank))| {
        logprobs.get(index).map(|logprobs| PromptLogprob { position, rank, logprobs })
    });
    Ok((SequenceRef { slot: chunk.slot, epoch: chunk.epoch }, entries.collect()))
}

/// Log-probabilities of a flat list of tokens, unpacked one at a time for those who asked.
#[derive(Debug, Default)]
pub(crate) struct Logprobs {
    values: Bytes,
    /// Where each token's alternatives end in `top_ids`; empty when nobody asked for any.
    top_ends: Vec<usize>,
    top_ids: Bytes,
    top_values: Bytes,
}

impl Logprobs {
    fn read(values: Bytes, top_counts: &Bytes, top_ids: Bytes, top_values: Bytes) -> Result<Self, String> {
        let len = words("logprobs", &values)?;
        let num_counts = words("top_counts", top_counts)?;
        if num_counts != 0 && num_counts != len {
            return Err(format!("`top_counts` has `{num_counts}` entries, `logprobs` has `{len}`"));
        }
        let mut end = 0;
        let top_ends: Vec<usize> = read_u32s(top_counts)
            .map(|count| {
                end += count as usize;
                end
            })
            .collect();
        for (name, array) in [("top_ids", &top_ids), ("top_logprobs", &top_values)] {
            let got = words(name, array)?;
            if got != end {
                return Err(format!("`{name}` has `{got}` entries, `top_counts` sums to `{end}`"));
            }
        }
        Ok(Self { values, top_ends, top_ids, top_values })
    }

    fn len(&self) -> usize {
        self.values.len() / 4
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Of the token at `index`; `None` where the worker gave none (NaN, or no list at all).
    pub(crate) fn get(&self, index: usize) -> Option<TokenLogprobs> {
        let logprob = self.values.get(4 * index..4 * index + 4)?.get_f32_le();
        if logprob.is_nan() {
            return None;
        }
        let end = self.top_ends.get(index).copied().unwrap_or(0);
        let start = if index == 0 { 0 } else { self.top_ends.get(index - 1).copied().unwrap_or(0) };
        let ids = read_u32s(&self.top_ids[4 * start..4 * end]);
        let values = self.top_values[4 * start..4 * end].chunks_exact(4).map(|mut bytes| bytes.get_f32_le());
        Some(TokenLogprobs { logprob, top: ids.zip(values).collect() })
    }
}

/// How many 4-byte words `array` holds.
fn words(name: &str, array: &Bytes) -> Result<usize, String> {
    if !array.len().is_multiple_of(4) {
        return Err(format!("`{name}` has `{}` bytes, which is no multiple of 4", array.len()));
    }
    Ok(array.len() / 4)
}

fn read_u32s(array: &[u8]) -> impl Iterator<Item = u32> {
    array.chunks_exact(4).map(|mut bytes| bytes.get_u32_le())
}

#[cfg(test)]
mod tests;
