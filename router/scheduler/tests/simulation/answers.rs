//! The worker executes a plan, well or not, and the scheduler gets its result.

use forebay_scheduler::{RequestId, StepPlan, StepResult};

use super::coverage::sometimes;
use super::worker::{Faults, Traits};
use super::world::{SentStep, World};

impl World {
    /// Lets the worker execute its oldest plan and gives the scheduler the result.
    pub(super) fn answer(&mut self) {
        let step = self.in_flight.pop_front().expect("checked by the caller");
        self.now.0 += self.swarm.time_of(&step.plan, &mut self.rng);
        let faults = self.draw_faults(&step);
        let result = match self.execute(&step.plan, &faults) {
            Ok(result) => result,
            Err(killer) => {
                self.in_flight.push_front(step);
                return self.die_of(killer);
            }
        };
        self.refuse_late_result(step.plan.step_id);
        let rollbacks = self.scheduler.stats().rollbacks;
        self.cover_result(&step, &result);
        self.learn_lengths(&step, &result);
        self.num_answered += 1;
        self.num_good_steps = if faults.step { 0 } else { self.num_good_steps + 1 };
        self.num_idle_answers += 1;
        self.best.1 += 1;
        self.scheduler.apply(&result, self.now, &mut self.events).expect("a right result");
        if faults.step || !faults.sequences.is_empty() {
            self.num_idle_answers = 0;
            self.best.1 = 0;
        }
        if faults.step {
            let with_row = step.ids.iter().filter(|&&id| self.record(id).is_live()).count() as u64;
            sometimes!(self.coverage, self.scheduler.stats().rollbacks - rollbacks > with_row, ReaderRolledBack);
        }
        self.take_events(Some((&step, &result)));
        self.check();
        self.check_progress();
    }

    /// An error names the request that killed the worker.
    pub(super) fn execute(&mut self, plan: &StepPlan, faults: &Faults) -> Result<StepResult, RequestId> {
        let records = &self.records;
        let traits_of = |id: RequestId| {
            let record = &records[id.0 as usize];
            Traits { salt: record.request.cache_salt, poison: record.poison }
        };
        self.worker.execute(plan, traits_of, faults, &mut self.rng)
    }

    fn learn_lengths(&mut self, step: &SentStep, result: &StepResult) {
        for (index, row) in step.plan.rows.iter().enumerate() {
            let answer = result.sampled.iter().find(|answer| answer.sequence == row.sequence);
            let num_yielded = answer.map_or(1, |answer| answer.token_ids.len() as u32);
            let is_decode = index < step.plan.num_decodes as usize;
            self.mirror.learn(row, num_yielded, is_decode);
        }
        self.cover_drafts(step, result);
    }

    fn draw_faults(&mut self, step: &SentStep) -> Faults {
        if step.plan.step_id < self.void_until {
            self.coverage.hit(super::coverage::Rare::FollowerVoided);
            return Faults { step: true, sequences: Vec::new() };
        }
        if self.is_draining {
            return Faults::default();
        }
        if self.rng.permille(self.swarm.step_errors) {
            let num_tokens: u32 = step.plan.rows.iter().map(|row| row.num_tokens).sum();
            for &id in &step.ids {
                self.records[id.0 as usize].num_small_failures += u32::from(num_tokens <= 2);
            }
            if self.swarm.voids_followers {
                self.void_until = self.mirror.num_sent;
            }
            return Faults { step: true, sequences: Vec::new() };
        }
        let rows = step.plan.rows.iter();
        let sequences = rows.filter(|_| self.rng.permille(self.swarm.sequence_errors)).map(|row| row.sequence);
        Faults { step: false, sequences: sequences.collect() }
    }
}
