//! Where the simulation notices that something rare has happened.

use forebay_scheduler::{FinishReason, RequestId, RowFlags, SequenceRef, StepPlan, StepResult};

use super::coverage::sometimes;
use super::mirror::Seat;
use super::record::Fate;
use super::world::{SentStep, World};

impl World {
    /// Seated, with prompt left to plan, with rows in flight.
    pub(super) fn phase_of(&self, id: RequestId) -> (bool, bool, bool) {
        let in_flight = |seat: &Seat| seat.last_row.is_some_and(|step| step >= self.num_answered);
        let seat = self.mirror.seat_of(id);
        seat.map_or((false, false, false), |seat| (true, seat.position < seat.num_sent, in_flight(seat)))
    }

    pub(super) fn cover_releases(&mut self, plan: &StepPlan) {
        let stats = self.scheduler.stats();
        let was_preempted =
            stats.preemptions > self.last_stats.preemptions && stats.rollbacks == self.last_stats.rollbacks;
        for released in &plan.released {
            let Some(seat) = &self.mirror.seats[released.slot as usize] else { continue };
            let record = &mut self.records[seat.id.0 as usize];
            if !record.is_live() {
                continue;
            }
            record.is_unseated = true;
            sometimes!(self.coverage, self.suspects.contains_key(&seat.id), SuspectUnseated);
            let in_flight = seat.last_row.is_some_and(|step| step >= self.num_answered);
            sometimes!(self.coverage, was_preempted && in_flight, PreemptedWithRowsInFlight);
            sometimes!(self.coverage, was_preempted && seat.position < seat.num_sent, PreemptedInPrefill);
        }
    }

    pub(super) fn cover_plan(&mut self, plan: &StepPlan) {
        let evicted = self.scheduler.stats().evictions > self.last_stats.evictions;
        let has_hit = plan.new_sequences.iter().any(|new| new.num_computed_tokens > 0);
        sometimes!(self.coverage, evicted && has_hit, EvictedWhileAdmittingWithHit);
        let only_decodes = plan.new_sequences.is_empty() && !plan.appends.is_empty();
        sometimes!(self.coverage, evicted && only_decodes, EvictedForDecode);
        if self.scheduler.stats().preemptions > self.last_stats.preemptions {
            return;
        }
        for seat in self.mirror.seats.iter().flatten() {
            let record = &self.records[seat.id.0 as usize];
            let is_ready = seat.position >= seat.num_sent && record.wants_decode_at(seat.position);
            if record.is_live() && is_ready && seat.last_row != Some(plan.step_id) {
                let is_full = seat.position as usize == seat.table.len() * self.swarm.limits.block_size as usize;
                sometimes!(self.coverage, is_full, DecodeStalledAtFence);
                sometimes!(self.coverage, !is_full, DecodesTookTurns);
            }
        }
    }

    pub(super) fn cover_result(&mut self, step: &SentStep, result: &StepResult) {
        let is_ahead = |sequence| self.in_flight.iter().any(|later| has_row(&later.plan, sequence));
        sometimes!(self.coverage, result.step_error.is_some() && !self.in_flight.is_empty(), StepFailedAhead);
        for (row, &id) in step.plan.rows.iter().zip(&step.ids) {
            let record = &self.records[id.0 as usize];
            let has_failed = result.errors.iter().any(|error| error.sequence == row.sequence);
            let in_prefill = row.flags.0 & RowFlags::SAMPLES == 0;
            let has_stopped = matches!(record.fate, Fate::Finished(FinishReason::StopToken(_)));
            sometimes!(self.coverage, has_failed && record.is_live() && in_prefill, SequenceFailedInPrefill);
            sometimes!(self.coverage, has_failed && record.is_live() && is_ahead(row.sequence), SequenceFailedAhead);
            sometimes!(self.coverage, has_failed && !record.is_live(), FormerTenantFailed);
            sometimes!(self.coverage, !has_failed && has_stopped, OvershootDropped);
        }
    }
}

impl World {
    /// Before the result is applied.
    pub(super) fn cover_drafts(&mut self, step: &SentStep, result: &StepResult) {
        for (index, &id) in step.ids.iter().enumerate().take(step.plan.num_decodes as usize) {
            let row = &step.plan.rows[index];
            let Some(answer) = result.sampled.iter().find(|answer| answer.sequence == row.sequence) else { continue };
            let record = &self.records[id.0 as usize];
            let num = answer.token_ids.len() as u32;
            if !record.is_live() || row.num_tokens == 1 {
                continue;
            }
            let stops = &record.request.stop_token_ids;
            let has_stop = answer.token_ids[..num as usize - 1].iter().any(|token| stops.contains(token));
            sometimes!(self.coverage, num == row.num_tokens, DraftsAccepted);
            sometimes!(self.coverage, num < row.num_tokens, DraftsRefused);
            sometimes!(self.coverage, has_stop, StopAmongDrafts);
            let is_last = record.num_generated() + num == record.request.max_new_tokens;
            sometimes!(self.coverage, is_last, LengthReachedByDraft);
            let is_ahead = self.in_flight.iter().any(|later| later.ids.contains(&id));
            sometimes!(self.coverage, is_ahead && num < row.num_tokens, DraftsRefusedAhead);
            sometimes!(self.coverage, record.is_unseated, DraftsOfPreempted);
        }
    }
}

fn has_row(plan: &StepPlan, sequence: SequenceRef) -> bool {
    plan.rows.iter().any(|row| row.sequence == sequence)
}
