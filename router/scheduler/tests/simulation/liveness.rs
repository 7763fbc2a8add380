//! Faults, cancels and arrivals stop: everybody must end within a computed number of steps, and nothing be left.
//!
//! **The bound.** Steps are counted by their answers. The *leader* is the best of those in slots.
//!
//! 1. A leader has a row, of a token at least, in every plan but these: it waits for blocks behind the fence, which lifts
//!    within a pipe (`run_ahead + 1` plans), and it is the first to be given one, so once for every block that it grows
//!    by; all it wants is planned, a pipe at most; and the budget is reduced, which is over after eight good steps a
//!    doubling. So it ends within a *reign* of so many plans as it has tokens, and a pipe for each stall and for its end,
//!    unless a better one is seated meanwhile.
//! 2. Who is preempted is the worst of those in slots, and slots are given in the order of the line. So where one has
//!    been preempted nobody worse runs, and nobody worse is seated before it (`check_order`).
//! 3. Hence who was seated with nobody better waiting leads, once it does, to its end: a better one would have to have
//!    been preempted meanwhile, and this one before it. Only who holds a slot when the faults stop may have a better one
//!    waiting, which can end its reign and take its blocks. Then it goes back to the line, and 3 holds for it too. So
//!    everybody reigns twice at most: `2 * reigns`.
//! 4. What was in flight when the faults stopped may still fail and roll back: a pipe more.
//! 5. While there are suspects the one on trial computes its prompt, for which it got all blocks at once, and is cleared
//!    by its first token; so it never grows and never preempts. Nothing runs ahead. The others are in order among
//!    themselves, their leader has a row in every other plan at least (trials of one that has a strike take turns with
//!    them), and who is on trial has one when they have ended, at the latest: `2 * 2 * reigns` until one is cleared.
//!    Preempted, it gives way to the best of the suspects, which stays the best, so only the first trial can be in vain.

use forebay_scheduler::{RequestId, StepPlan};

use super::world::World;

impl World {
    /// Runs until everybody has ended; answers how many steps that took, as a share of what it may take, in percent.
    pub(crate) fn drain(&mut self) -> u64 {
        self.is_draining = true;
        self.records.iter_mut().for_each(|record| record.poison = None);
        self.worker.cure();
        let (first, bound) = (self.num_answered, self.max_steps_to_end());
        // A result may be held back for some turns although it is there.
        let mut turns_left = 1_000 + 20 * bound;
        while !self.live.is_empty() || !self.in_flight.is_empty() {
            let num_steps = self.num_answered - first;
            assert!(num_steps <= bound, "after {num_steps} steps without faults some have not ended: {:?}", self.live);
            assert!(turns_left > 0, "requests do not end: {:?}", self.live);
            turns_left -= 1;
            self.now.0 += 1;
            self.exchange();
        }
        self.check_empty();
        (self.num_answered - first) * 100 / bound
    }

    /// By the argument at the head of this file, in its terms.
    fn max_steps_to_end(&self) -> u64 {
        let limits = &self.swarm.limits;
        let pipe = u64::from(limits.run_ahead) + 1;
        let reign_of = |&id: &_| {
            let request = &self.record(id).request;
            let num_stalls = request.max_new_tokens.div_ceil(limits.block_size) + 1;
            u64::from(request.num_prompt_tokens + request.max_new_tokens) + pipe * (u64::from(num_stalls) + 1)
        };
        let reigns: u64 = self.live.iter().map(reign_of).sum();
        let num_trials = if self.suspects.is_empty() { 0 } else { self.suspects.len() as u64 + 1 };
        (2 + 4 * num_trials) * reigns + self.max_steps_of_reduced_budget() + pipe
    }

    /// After so many good steps the budget is full again, however small it was.
    pub(super) fn max_steps_of_reduced_budget(&self) -> u64 {
        8 * (u64::from(self.swarm.limits.max_plan_tokens.ilog2()) + 1)
    }

    /// What the argument rests on, in every plan while there are no suspects: nobody is seated while a better one
    /// waits, nobody worse runs on when one has been preempted, and the leader has a row but for three reasons.
    pub(super) fn check_order(&self, plan: &StepPlan, ids: &[RequestId], released: &[RequestId]) {
        if !self.suspects.is_empty() {
            return;
        }
        let order = |id: RequestId| (self.record(id).request.priority, id);
        let waits = |id: &RequestId| self.mirror.seat_of(*id).is_none();
        let best_waiting = self.live.iter().copied().filter(waits).map(order).min();
        let passes = |id: RequestId| best_waiting.is_some_and(|best| best < order(id));
        assert!(!plan.new_sequences.iter().any(|new| passes(new.id)), "somebody is seated before a better one");
        let only_preempted = self.scheduler.stats().rollbacks == self.last_stats.rollbacks;
        let preempted = released.iter().copied().filter(|id| only_preempted && self.live.contains(id) && waits(id));
        let best_preempted = preempted.map(order).min();
        let runs_on = |id: &RequestId| best_preempted.is_some_and(|best| best < order(*id));
        assert!(!ids.iter().any(runs_on), "somebody runs on who is worse than one that was preempted");
        let seated = self.live.iter().copied().filter(|id| !waits(id));
        if let Some(leader) = seated.min_by_key(|&id| order(id)).filter(|leader| !ids.contains(leader)) {
            self.check_idle_leader(leader);
        }
    }

    fn check_idle_leader(&self, leader: RequestId) {
        let seat = self.mirror.seat_of(leader).expect("it is seated");
        let is_planned = !self.record(leader).wants_decode_at(seat.position);
        let waits_for_a_block = seat.position as usize == seat.table.len() * self.swarm.limits.block_size as usize;
        let is_reduced = self.num_good_steps < self.max_steps_of_reduced_budget();
        assert!(is_planned || waits_for_a_block || is_reduced, "{leader:?} leads and has no row");
    }

    fn check_empty(&self) {
        let stats = self.scheduler.stats();
        let rest = (stats.blocks_held, stats.blocks_fenced, stats.queued, stats.running, stats.plans_in_flight);
        assert_eq!(rest, (0, 0, 0, 0, 0), "something is left after the last request");
        assert_eq!(stats.queued_tokens, 0);
        assert_eq!(stats.blocks_free + stats.blocks_cached, self.swarm.limits.num_blocks - 1);
        assert_eq!(self.scheduler.next_deadline(), None);
    }
}
