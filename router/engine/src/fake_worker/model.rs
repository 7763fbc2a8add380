//! Executes plans as the protocol says, without a model: checks every rule that a plan can break, keeps a hash chain
//! where a worker keeps KV, and makes up log-probabilities. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use forebay_wire::SamplingParams;
use forebay_wire::v1::{NewSequence, PromptLogprobs, RowFlag, SequenceError, StepPlan, StepResult, Timings};

use super::script::{FakeScript, FakeTokens, Fault};
use super::service::out_of_memory;

/// A rule that a plan broke.
type Violation = String;

#[derive(Debug)]
struct FakeSequence {
    epoch: u32,
    token_ids: Vec<u32>,
    num_prompt: usize,
    num_computed: usize,
    blocks: Vec<u32>,
    sampling: SamplingParams,
    /// How many appeared before it.
    turn: usize,
    /// Failed alone: its rows compute nothing until it is released.
    failed: Option<(i32, String)>,
    /// Had a row in a step that failed as a whole: so do all steps with a row of it until it is released.
    is_void: bool,
}

/// One row of a plan.
#[derive(Debug, Clone, Copy)]
struct Row {
    slot: u32,
    epoch: u32,
    num_tokens: usize,
    flags: u32,
    is_decode: bool,
}

impl Row {
    fn has(self, flag: RowFlag) -> bool {
        self.flags & flag as u32 != 0
    }
}

/// The arrays of a result in the making.
#[derive(Debug, Default)]
struct Output {
    slots: Vec<u32>,
    epochs: Vec<u32>,
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    top_counts: Vec<u32>,
    top_ids: Vec<u32>,
    top_logprobs: Vec<f32>,
    prompt_logprobs: Vec<PromptLogprobs>,
    errors: Vec<SequenceError>,
    any_logprobs: bool,
}

/// The state of one shard.
#[derive(Debug)]
pub(super) struct FakeModel {
    script: Arc<FakeScript>,
    next_step: u64,
    sequences: BTreeMap<u32, FakeSequence>,
    /// A hash of the chain up to each position of each block.
    kv: Vec<u64>,
    /// In how many block tables each block is.
    num_holders: Vec<u32>,
    /// The last tenant of each slot.
    epochs: BTreeMap<u32, u32>,
    num_appeared: usize,
}

impl FakeModel {
    pub(super) fn new(script: Arc<FakeScript>) -> Self {
        let num_blocks = script.sizes.num_blocks as usize;
        let kv = vec![0; num_blocks * script.sizes.block_size as usize];
        let num_holders = vec![0; num_blocks];
        let (sequences, epochs) = (BTreeMap::new(), BTreeMap::new());
        Self { script, next_step: 0, sequences, kv, num_holders, epochs, num_appeared: 0 }
    }

    /// One step.
    pub(super) fn execute(&mut self, plan: &StepPlan) -> Result<StepResult, Violation> {
        self.enter(plan)?;
        let rows = self.rows(plan)?;
        let is_void = |row: &Row| self.sequences.get(&row.slot).is_some_and(|sequence| sequence.is_void);
        if rows.iter().any(is_void) {
            // Sent before the router knew of the failed step.
            return Ok(self.void_rows(plan));
        }
        let mut output = Output::default();
        for row in rows {
            self.compute(row, &mut output)?;
        }
        Ok(output.into_result(plan.step_id))
    }

    /// A step whose rows fail as a whole.
    pub(super) fn fail_step(&mut self, plan: &StepPlan) -> Result<StepResult, Violation> {
        self.enter(plan)?;
        Ok(self.void_rows(plan))
    }

    fn void_rows(&mut self, plan: &StepPlan) -> StepResult {
        for slot in u32s(&plan.row_slots) {
            if let Some(sequence) = self.sequences.get_mut(&slot) {
                sequence.is_void = true;
            }
        }
        out_of_memory(plan.step_id)
    }

    /// Everything of a plan but its rows.
    fn enter(&mut self, plan: &StepPlan) -> Result<(), Violation> {
        let expected = self.next_step;
        check(plan.step_id == expected, || format!("step `{}` came, expected `{expected}`", plan.step_id))?;
        check(!plan.row_slots.is_empty(), || format!("step `{expected}` has no rows"))?;
        self.next_step += 1;
        for (slot, epoch) in u32s(&plan.released_slots).zip(u32s(&plan.released_epochs)) {
            let Some(gone) = self.sequences.remove(&slot).filter(|sequence| sequence.epoch == epoch) else {
                return Err(format!("released ({slot}, {epoch}), which does not live there"));
            };
            gone.blocks.iter().for_each(|block| self.num_holders[*block as usize] -= 1);
        }
        for new in &plan.new_sequences {
            self.appear(new)?;
        }
        let mut blocks = u32s(&plan.append_blocks);
        for (slot, count) in u32s(&plan.append_slots).zip(u32s(&plan.append_counts)) {
            let appended: Vec<u32> = blocks.by_ref().take(count as usize).collect();
            check(appended.len() == count as usize, || {
                format!("slot {slot} gets `{count}` blocks that are not there")
            })?;
            self.append(slot, &appended)?;
        }
        check(blocks.next().is_none(), || "append_blocks is longer than append_counts say".to_owned())
    }

    fn appear(&mut self, new: &NewSequence) -> Result<(), Violation> {
        let (slot, max_sequences) = (new.slot, self.script.sizes.max_sequences);
        check(slot < max_sequences, || format!("slot `{slot}` is beyond `{max_sequences}`"))?;
        check(!self.sequences.contains_key(&slot), || format!("slot `{slot}` is taken"))?;
        let last = self.epochs.insert(slot, new.epoch);
        check(last.is_none_or(|last| last < new.epoch), || {
            format!("slot `{slot}`: epoch `{}` did not rise", new.epoch)
        })?;
        let token_ids: Vec<u32> = u32s(&new.token_ids).collect();
        let (num_prompt, num_computed) = (new.num_prompt_tokens as usize, new.num_computed_tokens as usize);
        check(num_prompt <= token_ids.len(), || format!("slot {slot}: the prompt is longer than its ids"))?;
        check(num_computed < token_ids.len(), || format!("slot {slot}: nothing is left to compute"))?;
        let Some(sampling) = new.sampling.clone() else {
            return Err(format!("slot {slot}: no sampling parameters"));
        };
        let sequence = FakeSequence {
            epoch: new.epoch,
            token_ids,
            num_prompt,
            num_computed,
            blocks: Vec::new(),
            sampling,
            turn: self.num_appeared,
            failed: None,
            is_void: false,
        };
        self.num_appeared += 1;
        self.sequences.insert(slot, sequence);
        self.append(slot, &u32s(&new.block_ids).collect::<Vec<_>>())
    }

    fn append(&mut self, slot: u32, blocks: &[u32]) -> Result<(), Violation> {
        let num_blocks = self.script.sizes.num_blocks;
        let Some(sequence) = self.sequences.get_mut(&slot) else {
            return Err(format!("blocks for slot `{slot}`, where nobody lives"));
        };
        for block in blocks {
            check(*block != 0, || format!("slot {slot} was given the null block"))?;
            check(*block < num_blocks, || format!("block `{block}` is beyond `{num_blocks}`"))?;
            check(!sequence.blocks.contains(block), || format!("slot {slot} has block `{block}` twice"))?;
            sequence.blocks.push(*block);
            self.num_holders[*block as usize] += 1;
        }
        Ok(())
    }

    /// The rows, with the rules that concern all of them.
    fn rows(&self, plan: &StepPlan) -> Result<Vec<Row>, Violation> {
        let (step, num_decodes) = (plan.step_id, plan.num_decodes as usize);
        let sequences = u32s(&plan.row_slots).zip(u32s(&plan.row_epochs));
        let work = u32s(&plan.row_num_tokens).zip(u32s(&plan.row_flags));
        let rows: Vec<Row> = sequences
            .zip(work)
            .enumerate()
            .map(|(index, ((slot, epoch), (num_tokens, flags)))| Row {
                slot,
                epoch,
                num_tokens: num_tokens as usize,
                flags,
                is_decode: index < num_decodes,
            })
            .collect();
        check(num_decodes <= rows.len(), || format!("step {step} has fewer rows than decodes"))?;
        let sorted = rows[..num_decodes].is_sorted_by(|a, b| a.slot < b.slot);
        check(sorted, || format!("step {step}: decodes are not in the order of their slots"))?;
        let mut slots: Vec<u32> = rows.iter().map(|row| row.slot).collect();
        slots.sort_unstable();
        check(slots.is_sorted_by(|a, b| a < b), || format!("step {step} computes a slot twice"))?;
        let (tokens, limit) = (rows.iter().map(|row| row.num_tokens).sum::<usize>(), self.script.sizes.max_plan_tokens);
        check(tokens <= limit as usize, || format!("step {step} computes `{tokens}` tokens, the limit is `{limit}`"))?;
        Ok(rows)
    }

    fn compute(&mut self, row: Row, output: &mut Output) -> Result<(), Violation> {
        let Row { slot, epoch, num_tokens, .. } = row;
        let block_size = self.script.sizes.block_size as usize;
        let Some(sequence) = self.sequences.get_mut(&slot).filter(|sequence| sequence.epoch == epoch) else {
            return Err(format!("a row of ({slot}, {epoch}), which does not live there"));
        };
        if let Some((kind, message)) = sequence.failed.clone() {
            output.errors.push(SequenceError { slot, epoch, kind, message });
            return Ok(());
        }
        let start = sequence.num_computed;
        let end = start + num_tokens;
        check_row(row, sequence, end)?;
        check(end <= sequence.blocks.len() * block_size, || format!("slot {slot} lacks a block for `{end}` tokens"))?;
        for index in start / block_size..end.div_ceil(block_size) {
            let (block, num) = (sequence.blocks[index], self.num_holders[sequence.blocks[index] as usize]);
            check(num == 1, || format!("slot {slot} writes to block `{block}`, which `{num}` sequences hold"))?;
        }
        for position in start..end {
            let before = if position == 0 { 0 } else { self.kv[place(sequence, position - 1, block_size)] };
            self.kv[place(sequence, position, block_size)] = mix(before, sequence.token_ids[position]);
        }
        sequence.num_computed = end;
        if row.has(RowFlag::PromptLogprobs) {
            output.prompt_logprobs.extend(prompt_logprobs(row, sequence, start, &self.script));
        }
        if row.has(RowFlag::Samples) {
            let chain = self.kv[place(sequence, end - 1, block_size)];
            sample(row, sequence, chain, &self.script, output);
        }
        Ok(())
    }
}

/// The rules that concern one row.
fn check_row(row: Row, sequence: &FakeSequence, end: usize) -> Result<(), Violation> {
    let (slot, known) = (row.slot, sequence.token_ids.len());
    check(row.num_tokens > 0, || format!("slot {slot}: a row without tokens"))?;
    check(end <= known, || format!("slot {slot}: computes up to `{end}`, only `{known}` tokens are known"))?;
    check(!row.is_decode || row.num_tokens == 1, || format!("slot {slot}: a decode of `{}` tokens", row.num_tokens))?;
    check(!row.is_decode || end == known, || format!("slot {slot}: a decode of `{end}`, `{known}` tokens are known"))?;
    let samples = row.has(RowFlag::Samples);
    check(!samples || end == known, || format!("slot {slot}: samples at `{end}` before `{known}`"))?;
    let last = row.has(RowFlag::LastChunk);
    check(row.is_decode || last == (end == known), || format!("slot {slot}: the last chunk is not marked as it is"))
}

fn place(sequence: &FakeSequence, position: usize, block_size: usize) -> usize {
    sequence.blocks[position / block_size] as usize * block_size + position % block_size
}

/// One link of the chain (splitmix64).
fn mix(before: u64, token_id: u32) -> u64 {
    let mut z = (before ^ u64::from(token_id)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn sample(row: Row, sequence: &mut FakeSequence, chain: u64, script: &FakeScript, output: &mut Output) {
    let num_generated = sequence.token_ids.len() - sequence.num_prompt;
    let token_id = match &script.tokens {
        FakeTokens::Echo { first, last } => first + (chain % u64::from(last - first + 1)) as u32,
        FakeTokens::Sequence(ids) => ids[num_generated % ids.len()],
        FakeTokens::InTurn(lists) => {
            let ids = &lists[sequence.turn % lists.len()];
            ids[num_generated % ids.len()]
        }
        FakeTokens::Function(next) => next(&sequence.token_ids, sequence.num_prompt),
    };
    let (slot, epoch) = (row.slot, row.epoch);
    if let Some((kind, message)) = scripted_failure(token_id, script) {
        sequence.failed = Some((kind, message.clone()));
        output.errors.push(SequenceError { slot, epoch, kind, message });
        return;
    }
    sequence.token_ids.push(token_id);
    output.slots.push(slot);
    output.epochs.push(epoch);
    output.token_ids.push(token_id);
    let num_top = if row.has(RowFlag::Logprobs) { sequence.sampling.num_top_logprobs } else { 0 };
    let num_ties = if sequence.sampling.top_ties && num_top > 0 { script.num_ties } else { 0 };
    let entry = logprobs(token_id, num_top, num_ties, script.sizes.vocab_size);
    output.any_logprobs |= row.has(RowFlag::Logprobs);
    output.logprobs.push(if row.has(RowFlag::Logprobs) { entry.0 } else { f32::NAN });
    output.top_counts.push(entry.1.len() as u32);
    output.top_ids.extend(entry.1.iter().map(|(id, _)| id));
    output.top_logprobs.extend(entry.1.iter().map(|(_, logprob)| logprob));
}

fn scripted_failure(token_id: u32, script: &FakeScript) -> Option<(i32, String)> {
    script.faults.iter().find_map(|fault| match fault {
        Fault::Sequence { token_id: poison, kind, message } if *poison == token_id => Some((*kind, message.clone())),
        _ => None,
    })
}

/// Made up: the token itself is the best, its successors follow one unit apart, and then come ties with the last.
fn logprobs(token_id: u32, num_top: u32, num_ties: u32, vocab_size: u32) -> (f32, Vec<(u32, f32)>) {
    let best = -0.125 - (token_id % 8) as f32 / 8.0;
    let logprob = |nth: u32| best - nth.min(num_top.saturating_sub(1)) as f32;
    let top = (0..(num_top + num_ties).min(vocab_size)).map(|nth| ((token_id + nth) % vocab_size, logprob(nth)));
    (best, top.collect())
}

/// Computing positions `start..` tells how likely the tokens one further were.
fn prompt_logprobs(row: Row, sequence: &FakeSequence, start: usize, script: &FakeScript) -> Option<PromptLogprobs> {
    let num_top = u32::try_from(sequence.sampling.num_prompt_logprobs).ok()?;
    let positions = start + 1..sequence.num_prompt.min(sequence.num_computed + 1);
    let entries: Vec<_> =
        positions.map(|position| logprobs(sequence.token_ids[position], num_top, 0, script.sizes.vocab_size)).collect();
    if entries.is_empty() {
        return None;
    }
    let tops = || entries.iter().flat_map(|(_, top)| top);
    Some(PromptLogprobs {
        slot: row.slot,
        epoch: row.epoch,
        first_position: start as u32 + 1,
        logprobs: f32_bytes(entries.iter().map(|(logprob, _)| *logprob)),
        ranks: u32_bytes(entries.iter().map(|_| 1)),
        top_counts: if num_top == 0 {
            Bytes::new()
        } else {
            u32_bytes(entries.iter().map(|(_, top)| top.len() as u32))
        },
        top_ids: u32_bytes(tops().map(|(id, _)| *id)),
        top_logprobs: f32_bytes(tops().map(|(_, logprob)| *logprob)),
    })
}

impl Output {
    fn into_result(self, step_id: u64) -> StepResult {
        let mut result = StepResult {
            step_id,
            num_tokens: u32_bytes(self.slots.iter().map(|_| 1)),
            slots: u32_bytes(self.slots),
            epochs: u32_bytes(self.epochs),
            token_ids: u32_bytes(self.token_ids),
            prompt_logprobs: self.prompt_logprobs,
            errors: self.errors,
            timings: Some(Timings { queued: 0, prepare: 0, forward: 1, sample: 0 }),
            ..StepResult::default()
        };
        if self.any_logprobs {
            result.logprobs = f32_bytes(self.logprobs);
        }
        if !self.top_ids.is_empty() {
            result.top_counts = u32_bytes(self.top_counts);
            result.top_ids = u32_bytes(self.top_ids);
            result.top_logprobs = f32_bytes(self.top_logprobs);
        }
        result
    }
}

fn check(holds: bool, otherwise: impl FnOnce() -> Violation) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn u32s(array: &[u8]) -> impl Iterator<Item = u32> {
    array.chunks_exact(4).map(|mut bytes| bytes.get_u32_le())
}

fn u32_bytes(values: impl IntoIterator<Item = u32>) -> Bytes {
    values.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn f32_bytes(values: impl IntoIterator<Item = f32>) -> Bytes {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests;
