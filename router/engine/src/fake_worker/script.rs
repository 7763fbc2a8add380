//! What a fake worker pretends to be: its sizes, its tokens, its faults.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What the handshake says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeSizes {
    /// Shards.
    pub world_size: u32,
    /// Blocks in the pool, the null block included.
    pub num_blocks: u32,
    /// Tokens a block.
    pub block_size: u32,
    /// Slots.
    pub max_sequences: u32,
    /// Tokens one plan may compute.
    pub max_plan_tokens: u32,
    /// Plans sent beyond the one whose result is awaited.
    pub max_run_ahead: u32,
    /// Size of the vocabulary.
    pub vocab_size: u32,
    /// Longest sequence of the model.
    pub max_position_embeddings: u32,
}

impl Default for FakeSizes {
    fn default() -> Self {
        Self {
            world_size: 1,
            num_blocks: 1024,
            block_size: 16,
            max_sequences: 64,
            max_plan_tokens: 512,
            max_run_ahead: 3,
            vocab_size: 1024,
            max_position_embeddings: 2048,
        }
    }
}

/// Answers the next token from all tokens so far and how many of them are prompt.
pub type NextToken = dyn Fn(&[u32], usize) -> u32 + Send + Sync;

/// Which token comes next.
#[derive(Clone)]
pub enum FakeTokens {
    /// A hash of every token so far, read back through the block table, cut to `first..=last`: a block that holds
    /// what it should not changes the text.
    Echo {
        /// Lowest id.
        first: u32,
        /// Highest id.
        last: u32,
    },
    /// Every request yields these, one after another, and from the start again after the last.
    Sequence(Vec<u32>),
    /// The n-th sequence to appear yields the n-th list in the same way; after the last list comes the first.
    InTurn(Vec<Vec<u32>>),
    /// Whatever the test wants.
    Function(Arc<NextToken>),
}

impl fmt::Debug for FakeTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo { first, last } => write!(f, "Echo({first}..={last})"),
            Self::Sequence(ids) => write!(f, "Sequence({ids:?})"),
            Self::InTurn(lists) => write!(f, "InTurn({lists:?})"),
            Self::Function(_) => write!(f, "Function"),
        }
    }
}

/// Something that goes wrong, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `WorkerGroup::start` fails.
    Start {
        /// In which life of the group.
        incarnation: u64,
    },
    /// Shard 0 exits before the handshake is answered.
    ExitWhileLoading {
        /// In which life of the group.
        incarnation: u64,
    },
    /// Shard 0 says why it cannot serve, then exits.
    Refuse {
        /// In which life of the group.
        incarnation: u64,
        /// Its words.
        message: String,
    },
    /// The handshake is never answered.
    NeverReady {
        /// In which life of the group.
        incarnation: u64,
    },
    /// A shard says something else than its peers in the handshake.
    Handshake {
        /// In which life of the group.
        incarnation: u64,
        /// Which shard.
        rank: u32,
        /// Which of its numbers: the field's name.
        field: &'static str,
        /// What it says.
        value: u32,
    },
    /// A step goes wrong.
    Step {
        /// In which life of the group.
        incarnation: u64,
        /// On which shard.
        rank: u32,
        /// Which step.
        step_id: u64,
        /// How.
        kind: StepFault,
    },
    /// A shard answers some of its heartbeats never; the plans go on.
    Silence {
        /// In which life of the group.
        incarnation: u64,
        /// Which shard.
        rank: u32,
        /// Which of its heartbeats, the first is 0.
        unanswered: Range<u32>,
    },
    /// A shard's heartbeats name another life of the group.
    Heartbeat {
        /// In which life of the group.
        incarnation: u64,
        /// Which shard.
        rank: u32,
        /// The life that it names.
        says: u64,
    },
    /// A sequence fails alone where it would have yielded this token.
    Sequence {
        /// The token.
        token_id: u32,
        /// The wire's `SequenceErrorKind`.
        kind: i32,
        /// The worker's words.
        message: String,
    },
}

/// How a step goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepFault {
    /// The stream breaks, the process lives.
    BreakStream,
    /// The process dies.
    Exit,
    /// Nothing more is answered.
    Hang,
    /// The result names another step.
    WrongStepId,
    /// The result's arrays do not fit each other.
    Ragged,
    /// The result has a row that was never planned.
    UnplannedRow,
    /// The step runs out of memory: nothing of it was computed.
    OutOfMemory,
}

/// All that a fake worker pretends.
#[derive(Debug, Clone)]
pub struct FakeScript {
    /// What the handshake says.
    pub sizes: FakeSizes,
    /// What the handshake's `features` say.
    pub features: Vec<String>,
    /// Which token comes next.
    pub tokens: FakeTokens,
    /// Alternatives that are as likely as the last one asked for; shown to those who want ties.
    pub num_ties: u32,
    /// How long the weights load.
    pub load_delay: Duration,
    /// How long a step takes.
    pub step_delay: Duration,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

impl Default for FakeScript {
    fn default() -> Self {
        Self {
            sizes: FakeSizes::default(),
            features: ["logprobs", "prompt_logprobs"].map(str::to_owned).to_vec(),
            tokens: FakeTokens::Echo { first: 3, last: 1023 },
            num_ties: 0,
            load_delay: Duration::ZERO,
            step_delay: Duration::ZERO,
            faults: Vec::new(),
        }
    }
}

impl FakeScript {
    /// The usual worker, with these tokens for every request.
    pub fn sequence(token_ids: impl Into<Vec<u32>>) -> Self {
        Self { tokens: FakeTokens::Sequence(token_ids.into()), ..Self::default() }
    }

    pub(super) fn step_fault(&self, incarnation: u64, rank: u32, step_id: u64) -> Option<StepFault> {
        self.faults.iter().find_map(|fault| match fault {
            Fault::Step { incarnation: i, rank: r, step_id: s, kind }
                if (*i, *r, *s) == (incarnation, rank, step_id) =>
            {
                Some(*kind)
            }
            _ => None,
        })
    }
}
