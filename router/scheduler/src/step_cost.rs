//! How long a step takes, learned from the steps that were answered.
//!
//! `time = fixed + a·prompt tokens + b·decoded tokens + c·prompt reads + d·decode reads`, where a token *reads* every
//! position before its own: what attention costs. Least squares of the error in shares of what was expected, so that
//! steps of a millisecond and of a second count alike. Steps are remembered by kind (decodes alone, prompts alone,
//! both), each kind forgetting only for newer ones of its own, so that an hour of decodes does not wipe out what is known
//! of prompts; but a machine that has become slower or faster is so for all of them. The equations are solved by
//! coordinate descent from the last solution, a few sweeps a step: nothing can become negative or infinite, and a term
//! about which the steps say nothing stays what it was. Plain `f64` in a fixed order: the same steps give the same costs
//! on every machine.

/// What a chunk beside decodes may be before any such step was seen.
const FIRST_CHUNK: u64 = 64;
/// Sweeps of coordinate descent a step; what they leave over is done at the next steps.
const NUM_SWEEPS: usize = 16;
/// What is left of a step's weight after one more of its kind: some 32 are remembered.
const MEMORY: f64 = 1.0 - 1.0 / 32.0;
/// How much of a surprise is put down to the machine, which is faster or slower now for steps of every kind.
const DRIFT: f64 = 1.0 / 8.0;
/// A step that took more than so many times what was expected, or less, counts as if it had taken that.
const MAX_SURPRISE: f64 = 2.0;
/// A step of prompts alone is far larger than the chunks that are to be cut, and its tokens may be cheaper.
const WEIGHT_OF_PROMPTS_ALONE: f64 = 1.0 / 32.0;

/// What a step computes, as far as its time depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StepLoad {
    pub(crate) prompt_tokens: u64,
    pub(crate) prompt_reads: u64,
    pub(crate) decode_tokens: u64,
    pub(crate) decode_reads: u64,
}

impl StepLoad {
    /// Adds `num_tokens` tokens of a prompt behind `context` others.
    pub(crate) fn add_chunk(&mut self, num_tokens: u32, context: u32) {
        self.prompt_tokens += u64::from(num_tokens);
        self.prompt_reads += num_reads(num_tokens, context);
    }

    /// Adds a decode, and its drafts, behind `context` tokens.
    pub(crate) fn add_decode(&mut self, num_tokens: u32, context: u32) {
        self.decode_tokens += u64::from(num_tokens);
        self.decode_reads += num_reads(num_tokens, context);
    }

    fn terms(&self) -> Terms {
        // The term of all steps comes last: what a first step took is put down to its tokens.
        [self.prompt_tokens, self.decode_tokens, self.prompt_reads, self.decode_reads, 1].map(|term| term as f64)
    }

    fn kind(&self) -> Kind {
        match (self.prompt_tokens > 0, self.decode_tokens > 0) {
            (true, true) => Kind::Both,
            (true, false) => Kind::Prompts,
            (false, _) => Kind::Decodes,
        }
    }
}

fn num_reads(num_tokens: u32, context: u32) -> u64 {
    let (num_tokens, context) = (u64::from(num_tokens), u64::from(context));
    num_tokens * context + num_tokens * num_tokens / 2
}

const NUM_TERMS: usize = 5;
type Terms = [f64; NUM_TERMS];
const PROMPT_TOKENS: usize = 0;
const PROMPT_READS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Decodes,
    Prompts,
    Both,
}

/// Sums over the steps of one kind, the newest weighing most.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    products: [Terms; NUM_TERMS],
    sums: Terms,
}

/// The costs as they are known now.
#[derive(Debug, Default)]
pub(crate) struct StepCost {
    /// Microseconds a unit of each term.
    weights: Terms,
    by_kind: [Memory; 3],
    /// Tokens of the largest sum of chunks that a step held beside decodes lately.
    largest_chunk: u64,
}

/// How many times what was expected a step took.
fn surprise(took: f64, expected: f64) -> f64 {
    (took / expected).clamp(1.0 / MAX_SURPRISE, MAX_SURPRISE)
}

impl StepCost {
    /// Whether both steps with decodes and steps with prompts have been seen.
    pub(crate) fn is_known(&self) -> bool {
        let has_seen = |kind: Kind| self.by_kind[kind as usize].sums[NUM_TERMS - 1] > 0.0;
        has_seen(Kind::Both) || (has_seen(Kind::Decodes) && has_seen(Kind::Prompts))
    }

    /// Learns from a step that took `micros`.
    pub(crate) fn observe(&mut self, load: &StepLoad, micros: u64) {
        let took = micros.max(1) as f64;
        let mut expected = self.predict(load);
        let is_new = !self.is_known() || expected < 1.0;
        if is_new {
            expected = took;
        } else {
            let drift = 1.0 + (surprise(took, expected) - 1.0) * DRIFT;
            self.slow_down(drift);
            expected *= drift;
        }
        let ratio = surprise(took, expected);
        let shares = load.terms().map(|term| term / expected);
        let memory = &mut self.by_kind[load.kind() as usize];
        for (row, &share) in memory.products.iter_mut().zip(&shares) {
            for (product, &other) in row.iter_mut().zip(&shares) {
                *product = *product * MEMORY + share * other;
            }
        }
        for (sum, &share) in memory.sums.iter_mut().zip(&shares) {
            *sum = *sum * MEMORY + share * ratio;
        }
        if load.kind() == Kind::Both {
            self.largest_chunk = load.prompt_tokens.max(self.largest_chunk - self.largest_chunk / 32);
        }
        self.solve();
    }

    /// Whatever was remembered would take so many times as long now.
    fn slow_down(&mut self, drift: f64) {
        let sums = self.by_kind.iter_mut().flat_map(|memory| &mut memory.sums);
        sums.chain(&mut self.weights).for_each(|value| *value *= drift);
    }

    fn solve(&mut self) {
        let weights_of_kinds = [1.0, WEIGHT_OF_PROMPTS_ALONE, 1.0];
        let over_kinds = |of: &dyn Fn(&Memory) -> f64| -> f64 {
            self.by_kind.iter().zip(weights_of_kinds).map(|(memory, weight)| of(memory) * weight).sum()
        };
        let products: [Terms; NUM_TERMS] =
            std::array::from_fn(|row| std::array::from_fn(|term| over_kinds(&|memory| memory.products[row][term])));
        let sums: Terms = std::array::from_fn(|term| over_kinds(&|memory| memory.sums[term]));
        for _ in 0..NUM_SWEEPS {
            for term in 0..NUM_TERMS {
                let explained: f64 =
                    products[term].iter().zip(&self.weights).map(|(product, weight)| product * weight).sum();
                let own = products[term][term];
                if own > f64::MIN_POSITIVE {
                    self.weights[term] = (self.weights[term] + (sums[term] - explained) / own).max(0.0);
                }
            }
        }
    }

    /// Microseconds that a step is expected to take.
    pub(crate) fn predict(&self, load: &StepLoad) -> f64 {
        load.terms().iter().zip(&self.weights).map(|(term, weight)| term * weight).sum()
    }

    /// Tokens of prompts beside decodes, beyond which nothing that was seen says anything.
    pub(crate) fn max_known_chunk(&self) -> u32 {
        (2 * self.largest_chunk).clamp(FIRST_CHUNK, u64::from(u32::MAX)) as u32
    }

    /// Microseconds that a chunk adds to a step.
    pub(crate) fn of_chunk(&self, num_tokens: u32, context: u32) -> f64 {
        f64::from(num_tokens) * self.weights[PROMPT_TOKENS]
            + num_reads(num_tokens, context) as f64 * self.weights[PROMPT_READS]
    }

    /// How large a chunk behind `context` tokens may be to add no more than `micros`.
    pub(crate) fn tokens_within(&self, micros: f64, context: u32) -> u32 {
        let (linear, half_square) =
            (self.weights[PROMPT_TOKENS] + f64::from(context) * self.weights[PROMPT_READS], self.weights[PROMPT_READS]);
        // The root of `half_square / 2 · n² + linear · n = micros`, in the form that loses nothing where the square is
        // small. The conversion saturates where chunks are free.
        (2.0 * micros.max(0.0) / (linear + (linear * linear + 2.0 * half_square * micros.max(0.0)).sqrt())) as u32
    }
}

#[cfg(test)]
mod tests;
