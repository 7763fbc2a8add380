//! Takes a step's result: checks it against the plan, commits KV and tokens, and ends what has ended.

use crate::in_flight::{SentPlan, SentRow};
use crate::request::Time;
use crate::scheduler::Scheduler;
use crate::sequence::{Sequence, Standing};
use crate::sequence_table::SequenceKey;
use crate::step::{Event, ResultError, SampledRow, SequenceRef, StepResult};

impl Scheduler {
    /// Applies the result of the oldest plan in flight. Nothing has changed when it returns an error.
    pub(crate) fn take_result(
        &mut self,
        result: &StepResult,
        now: Time,
        events: &mut Vec<Event>,
    ) -> Result<(), ResultError> {
        let expected = self.in_flight.front().map(|plan| plan.step_id);
        if expected != Some(result.step_id) {
            return Err(ResultError::StepId { expected, got: result.step_id });
        }
        if let Some(plan) = self.in_flight.front() {
            check_rows(plan, result)?;
        }
        let Some(plan) = self.in_flight.pop_front() else { return Ok(()) };
        self.clock.answered += 1;
        self.blocks.lift_fence(self.clock);
        // A plan sent ahead is begun when the one before it has been answered.
        let began = plan.sent_at.max(std::mem::replace(&mut self.answered_at, now));
        if let Some(error) = &result.step_error {
            self.fail_step(&plan, error, events);
        } else {
            self.budget.step_succeeded();
            self.step_cost.observe(&plan.load, now.0.saturating_sub(began.0));
            if !result.errors.is_empty() {
                self.fail_sequences(&plan, &result.errors, events);
            }
            self.commit_rows(&plan, &result.sampled, events);
        }
        Ok(())
    }

    /// Delivers a good step. Rows of tenancies that are over (cancelled, finished, rolled back, failed) are dropped.
    fn commit_rows(&mut self, plan: &SentPlan, sampled: &[SampledRow], events: &mut Vec<Event>) {
        let mut sampled = sampled.iter().peekable();
        let mut result_index = 0;
        for row in &plan.rows {
            let answer = sampled.next_if(|answer| answer.sequence == row.sequence);
            let token_ids = answer.map_or(&[][..], |answer| &answer.token_ids);
            if self.sequences.get(row.key).and_then(Sequence::tenancy) == Some(row.sequence) {
                self.commit_row(plan.step_id, row.key, token_ids, result_index, events);
            }
            result_index += token_ids.len();
        }
    }

    fn commit_row(
        &mut self,
        step_id: u64,
        key: SequenceKey,
        token_ids: &[u32],
        first_index: usize,
        events: &mut Vec<Event>,
    ) {
        let sequence = &mut self.sequences[key];
        let is_running = matches!(sequence.standing, Standing::Running(_));
        sequence.commit(step_id, token_ids.len() as u32);
        let mut end = None;
        for (result_index, &token_id) in (first_index..).zip(token_ids) {
            end = sequence.accept(token_id);
            let (id, num_generated) = (sequence.request.id, sequence.num_generated());
            events.push(Event::Token { id, token_id, num_generated, result_index });
            if end.is_some() {
                break; // drafts accepted behind a stop were computed in vain
            }
        }
        if is_running {
            // Known tokens that the step computed: all of a prompt's blocks are there already, generated ones enter now.
            let num_known = sequence.num_committed().min(sequence.num_tokens());
            self.publish(key, num_known, step_id);
        }
        if !token_ids.is_empty() {
            self.clear(key);
        }
        if let Some(reason) = end {
            self.finish(key, reason, events);
        }
    }
}

/// The sampled rows must be the plan's `SAMPLES` rows, in order, without those that failed.
fn check_rows(plan: &SentPlan, result: &StepResult) -> Result<(), ResultError> {
    let wrong = |detail: String| Err(ResultError::Rows { step_id: plan.step_id, detail });
    if result.step_error.is_some() {
        let is_bare = result.sampled.is_empty() && result.errors.is_empty();
        return if is_bare { Ok(()) } else { wrong("a failed step has no rows and no errors of sequences".into()) };
    }
    let mut failed: Vec<SequenceRef> = result.errors.iter().map(|error| error.sequence).collect();
    failed.sort_unstable();
    if let Some(twice) = failed.windows(2).find(|pair| pair[0] == pair[1]) {
        return wrong(format!("{} failed twice", name(twice[0])));
    }
    let mut sampled = result.sampled.iter();
    let mut num_failed = 0;
    for row in &plan.rows {
        if failed.binary_search(&row.sequence).is_ok() {
            num_failed += 1;
        } else if row.max_yield > 0 {
            check_row(row, sampled.next()).or_else(wrong)?;
        }
    }
    if num_failed < failed.len() {
        return wrong("an error names a sequence that had no row".into());
    }
    sampled.next().map_or(Ok(()), |extra| wrong(format!("{} was not asked to sample", name(extra.sequence))))
}

fn check_row(row: &SentRow, answer: Option<&SampledRow>) -> Result<(), String> {
    let Some(answer) = answer else { return Err(format!("{} is missing", name(row.sequence))) };
    if answer.sequence != row.sequence {
        return Err(format!("expected {}, got {}", name(row.sequence), name(answer.sequence)));
    }
    let num = answer.token_ids.len();
    if num == 0 || num > row.max_yield as usize {
        return Err(format!(
            "{} sampled `{num}` tokens, the plan asked for 1 to {}",
            name(row.sequence),
            row.max_yield
        ));
    }
    Ok(())
}

fn name(sequence: SequenceRef) -> String {
    format!("slot `{}` epoch `{}`", sequence.slot, sequence.epoch)
}
