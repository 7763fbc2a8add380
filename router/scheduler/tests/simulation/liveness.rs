//! Faults, cancels and arrivals stop: everybody must end within a computed number of steps, and nothing be left.

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

    /// The best of those that run has a row in every plan, except while it waits for its turn under a reduced budget
    /// (which doubles every eight good steps) or for the fence (the depth of the pipe). A row computes a token at
    /// least, so that one ends within as many steps as it has tokens; then the next is the best. Twice, since a better
    /// one may be seated meanwhile and take its blocks, and since trials and others take turns.
    fn max_steps_to_end(&self) -> u64 {
        let limits = &self.swarm.limits;
        let pipe = u64::from(limits.run_ahead) + 2;
        let num_doublings = u64::from(limits.max_plan_tokens.ilog2()) + 1;
        let tokens_of = |&id: &_| {
            let request = &self.record(id).request;
            u64::from(request.num_prompt_tokens + request.max_new_tokens) + pipe
        };
        2 * self.live.iter().map(tokens_of).sum::<u64>() + 8 * num_doublings + pipe
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
