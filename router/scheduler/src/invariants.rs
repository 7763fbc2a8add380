//! Recounts the scheduler from its parts. Too slow for every step of a server; the simulator does it after each call.

use crate::scheduler::Scheduler;
use crate::sequence::{Phase, Standing};

impl Scheduler {
    /// Checks every internal invariant.
    ///
    /// # Panics
    /// When one does not hold.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        self.check_blocks();
        self.check_places();
        self.check_progress();
        self.check_suspects();
        assert_eq!(self.clock.num_in_flight(), self.in_flight.len() as u64);
        assert!(self.in_flight.len() as u64 <= u64::from(self.limits.run_ahead) + 1, "too many plans in flight");
        assert!(self.in_flight.iter().map(|plan| plan.step_id).eq(self.clock.answered..self.clock.sent), "a step gap");
    }

    fn check_blocks(&self) {
        let mut num_holders = vec![0; self.limits.num_blocks as usize];
        for key in self.slots.tenants() {
            for &block in &self.sequences[key].blocks {
                num_holders[block as usize] += 1;
            }
        }
        self.blocks.check(&num_holders);
    }

    /// Every sequence is in the line or in a slot, once.
    fn check_places(&self) {
        for (rank, key, _) in self.queue.iter() {
            let sequence = &self.sequences[key];
            assert_eq!(sequence.rank, rank);
            assert!(!matches!(sequence.standing, Standing::Running(_)), "{rank:?} waits and runs");
        }
        for key in self.slots.tenants() {
            assert!(matches!(self.sequences[key].standing, Standing::Running(_)), "a tenant that does not run");
        }
        let seated = self.slots.tenants().count() as u32;
        assert_eq!(seated, self.slots.num_tenants());
        let queued_tokens: u64 = self.queue.iter().map(|(_, _, num_tokens)| u64::from(num_tokens)).sum();
        assert_eq!(queued_tokens, self.queue.num_prompt_tokens());
        assert_eq!(self.queue.len() + seated, self.sequences.iter().count() as u32);
        let with_deadline = self.sequences.iter().filter(|(_, sequence)| sequence.request.deadline.is_some()).count();
        assert_eq!(with_deadline, self.deadlines.len());
    }

    fn check_suspects(&self) {
        let is_suspect = |key| self.sequences[key].suspicion.is_some();
        assert_eq!(self.sequences.iter().filter(|&(key, _)| is_suspect(key)).count() as u32, self.num_suspects);
        assert!(self.slots.tenants().filter(|&key| is_suspect(key)).count() <= 1, "two suspects could share a plan");
    }

    fn check_progress(&self) {
        let block_size = self.limits.block_size as usize;
        for (_, sequence) in self.sequences.iter() {
            let rows_expected = match sequence.phase() {
                Phase::Waiting => false,
                Phase::Preempted | Phase::Finishing => true,
                Phase::Prefilling | Phase::Decoding => continue,
            };
            assert_eq!(sequence.has_rows_in_flight(), rows_expected, "{:?} waits for nothing", sequence.rank);
        }
        for key in self.slots.tenants() {
            let sequence = &self.sequences[key];
            let num_slots = sequence.blocks.len() * block_size;
            assert!(sequence.num_planned() as usize <= num_slots, "a row writes beyond its block table");
            assert!(sequence.num_published <= sequence.blocks.len());
            let num_final = sequence.num_generated() + sequence.num_awaited();
            assert!(num_final <= sequence.request.max_new_tokens, "more is planned than may be delivered");
        }
    }
}
