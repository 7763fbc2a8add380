//! How many tokens a plan may compute: the limit, or less for a while after a step has failed.

/// Good steps in a row after which a reduced budget is doubled.
const STEPS_TO_DOUBLE: u32 = 8;

/// The budget now, and its way back up.
#[derive(Debug)]
pub(crate) struct TokenBudget {
    max: u32,
    now: u32,
    num_good_steps: u32,
}

impl TokenBudget {
    pub(crate) fn new(max: u32) -> Self {
        Self { max, now: max, num_good_steps: 0 }
    }

    pub(crate) fn now(&self) -> u32 {
        self.now
    }

    /// The smallest it gets: one decode and one prompt token, so that neither kind of row can starve the other.
    pub(crate) fn floor(&self) -> u32 {
        self.max.min(2)
    }

    /// A step of `num_tokens` failed: the next ones are at most half as large.
    pub(crate) fn step_failed(&mut self, num_tokens: u32) {
        self.now = self.now.min((num_tokens / 2).max(self.floor()));
        self.num_good_steps = 0;
    }

    pub(crate) fn step_succeeded(&mut self) {
        if self.now == self.max {
            return;
        }
        self.num_good_steps += 1;
        if self.num_good_steps == STEPS_TO_DOUBLE {
            self.num_good_steps = 0;
            self.now = self.now.saturating_mul(2).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_halves_on_failure_and_doubles_back_over_good_steps() {
        let mut budget = TokenBudget::new(64);
        budget.step_failed(40);
        assert_eq!(budget.now(), 20);
        budget.step_failed(3);
        assert_eq!(budget.now(), 2);
        for _ in 0..STEPS_TO_DOUBLE * 5 {
            budget.step_succeeded();
        }
        assert_eq!(budget.now(), 64);
    }
}
