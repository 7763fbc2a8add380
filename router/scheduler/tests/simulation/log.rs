//! The hash over all plans and events by which two runs of a seed are compared.

use forebay_scheduler::{Event, StepPlan};

use super::rng::mix;
use super::world::World;

impl World {
    fn log(&mut self, value: u64) {
        self.log_hash = mix(self.log_hash, value);
    }

    pub(super) fn log_plan(&mut self, plan: &StepPlan) {
        self.log(plan.step_id);
        for released in &plan.released {
            self.log(u64::from(released.slot) << 32 | u64::from(released.epoch));
        }
        for new in &plan.new_sequences {
            self.log(new.id.0 << 32 | u64::from(new.num_computed_tokens));
            new.block_ids.iter().for_each(|&block| self.log(u64::from(block)));
        }
        for append in &plan.appends {
            append.block_ids.iter().for_each(|&block| self.log(u64::from(append.slot) << 32 | u64::from(block)));
        }
        for row in &plan.rows {
            self.log(u64::from(row.sequence.slot) << 32 | u64::from(row.num_tokens));
        }
    }

    pub(super) fn log_event(&mut self, event: &Event) {
        match event {
            Event::Started { id, num_cached_tokens } => self.log(id.0 << 32 | u64::from(*num_cached_tokens)),
            Event::Token { id, token_id, .. } => self.log(id.0 << 32 | u64::from(*token_id) << 1 | 1),
            Event::Finished { id, .. } => self.log(id.0 << 32 | 0xFFFF_FFFF),
        }
    }
}
