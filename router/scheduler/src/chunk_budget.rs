//! How much of prompts a plan may compute beside decodes, which wait for the whole step to end.
//!
//! A step with no decodes makes nobody wait and has no bound but its tokens. Otherwise chunks are cut so that the step
//! takes as long as the [`StepTarget`] says, by what steps have been seen to cost; whatever it says, a plan that has
//! room for prompts computes some of the first, so that decodes cannot starve them.

use crate::limits::{Limits, StepTarget};
use crate::step_cost::{StepCost, StepLoad};

/// More microseconds than a step takes.
const AN_HOUR: f64 = 3.6e9;

/// What is left of a plan's share for prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ChunkBudget {
    /// Only the plan's tokens bound it.
    Unbounded,
    /// What further chunks may add to the step, in time and in tokens.
    Bounded { micros: f64, tokens: u32 },
}

impl ChunkBudget {
    /// For a plan that holds the decodes of `load`, while `num_prompts` are to be computed.
    pub(crate) fn new(limits: &Limits, cost: &StepCost, load: &StepLoad, num_prompts: u32) -> Self {
        let num_decodes = load.decode_tokens;
        if num_decodes == 0 {
            return Self::Unbounded;
        }
        let decodes_alone = cost.predict(load);
        let micros = match limits.step_target {
            StepTarget::Unbounded => return Self::Unbounded,
            StepTarget::Micros(micros) => micros as f64 - decodes_alone,
            // Where more wait for their first token than for their next, they weigh more.
            StepTarget::Stretch { percent } => {
                let crowding = (f64::from(num_prompts) / num_decodes as f64).max(1.0);
                decodes_alone * f64::from(percent) / 100.0 * crowding
            }
        };
        let micros = if cost.is_known() { micros } else { AN_HOUR };
        Self::Bounded { micros, tokens: cost.max_known_chunk() }
    }

    /// How large a chunk behind `context` tokens may be.
    pub(crate) fn tokens_at(&self, context: u32, cost: &StepCost) -> u32 {
        match *self {
            Self::Unbounded => u32::MAX,
            Self::Bounded { micros, tokens } => cost.tokens_within(micros, context).min(tokens),
        }
    }

    /// A chunk has been planned.
    pub(crate) fn spend(&mut self, num_tokens: u32, context: u32, cost: &StepCost) {
        match self {
            Self::Unbounded => {}
            Self::Bounded { micros, tokens } => {
                *micros -= cost.of_chunk(num_tokens, context);
                *tokens = tokens.saturating_sub(num_tokens);
            }
        }
    }
}
