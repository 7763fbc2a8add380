//! What a plan owes to prompts and to decodes, whatever steps were seen to take.

use forebay_scheduler::{Row, RowFlags, StepPlan, StepTarget};

use super::coverage::sometimes;
use super::world::World;

impl World {
    /// Decodes never starve prompts: a plan that leaves prompts to compute holds the least chunk of one, or the end. And
    /// where nobody waits for a decode, nothing but its tokens bounds a plan.
    pub(super) fn check_chunks(&mut self, plan: &StepPlan) {
        let (decodes, chunks) = plan.rows.split_at(plan.num_decodes as usize);
        let num_tokens = |rows: &[Row]| rows.iter().map(|row| row.num_tokens).sum::<u32>();
        let (num_prompt, num_decoded) = (num_tokens(chunks), num_tokens(decodes));
        let is_left = self.mirror.seats.iter().flatten().any(|seat| {
            let is_tried = self.suspects.is_empty() || seat.last_row == Some(plan.step_id);
            is_tried && self.record(seat.id).is_live() && seat.position < seat.num_sent
        });
        let is_reduced = self.num_good_steps < self.max_steps_of_reduced_budget();
        if !is_left || is_reduced {
            return;
        }
        let limits = &self.swarm.limits;
        let spare = limits.max_plan_tokens - num_decoded;
        let ends_one = chunks.iter().any(|row| row.flags.0 & RowFlags::LAST_CHUNK != 0);
        assert!(ends_one || num_prompt >= limits.min_chunk_tokens.min(spare), "decodes starve a prompt: {plan:?}");
        let is_full = num_prompt == spare;
        let is_bounded = num_decoded > 0 && limits.step_target != StepTarget::Unbounded;
        assert!(is_full || is_bounded, "a prompt is held back for nobody: {plan:?}");
        sometimes!(self.coverage, !is_full, ChunkCutByTime);
        sometimes!(self.coverage, !is_full && num_prompt == limits.min_chunk_tokens, LeastChunk);
    }
}
