//! The bounds a scheduler works within, fixed for the life of a worker group.

/// How long a step may become for prompts that it computes beside decodes, which wait for all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepTarget {
    /// As long as its tokens take.
    Unbounded,
    /// Microseconds. A step whose decodes alone take longer still computes a little of a prompt.
    Micros(u64),
    /// In percent of what its decodes alone take, beyond that; more while there are more prompts than decodes, in
    /// proportion.
    Stretch {
        /// 100 doubles a step.
        percent: u32,
    },
}

/// What the worker group offers and what the operator allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Tokens a block of KV holds.
    pub block_size: u32,
    /// Blocks in the pool, the null block included; ids `1..num_blocks` are given out.
    pub num_blocks: u32,
    /// Blocks that stay in the prefix tree while nobody holds them; more than there are: no bound.
    pub max_cached_blocks: u32,
    /// Slots: sequences that may be in a plan at once.
    pub max_sequences: u32,
    /// Tokens one plan may compute.
    pub max_plan_tokens: u32,
    /// How long a step with decodes may become for prompts.
    pub step_target: StepTarget,
    /// The least of the first prompt that a plan computes beside decodes, whatever the target (less where its tokens do
    /// not suffice).
    pub min_chunk_tokens: u32,
    /// Plans sent beyond the one whose result is awaited, 0–3.
    pub run_ahead: u32,
    /// Draft tokens that a decode may compute beside its own; 0 without drafts.
    pub max_draft_tokens: u32,
    /// Requests that may wait.
    pub max_queued: u32,
    /// Prompt tokens that may wait.
    pub max_queued_tokens: u64,
    /// Longest sequence, prompt and generated.
    pub max_total_tokens: u32,
}

impl Limits {
    /// Every sequence must get a token into every plan, and a block must be left to give.
    pub(crate) fn check(&self) {
        assert!(self.block_size > 0 && self.num_blocks > 1, "the pool is empty: {self:?}");
        assert!(self.min_chunk_tokens > 0, "decodes could starve prompts: {self:?}");
        assert!(self.max_sequences > 0, "there are no slots: {self:?}");
        assert!(self.max_plan_tokens >= self.max_sequences, "a plan must hold a decode a slot: {self:?}");
    }
}
