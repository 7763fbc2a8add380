//! A request's life: Waiting -> Prefilling -> Decoding -> Finishing -> gone; Preempted -> Waiting.
//!
//! Its progress is `num_committed` and the FIFO of what is in flight, and nothing else: every other count is derived
//! from these two, so that none of them can disagree. Draft tokens make what is in flight uncertain: a decode with
//! drafts computes and yields one token at least and all of its row at most. Only the worker knows until the result
//! comes; what is planned, blocks and budget count on the most, what is committed is what came.

use std::collections::VecDeque;

use crate::block_pool::BlockId;
use crate::request::{FinishReason, NewRequest};
use crate::step::SequenceRef;

/// Order of service: smaller goes first, larger is preempted first. The arrival number breaks all ties and is kept
/// over a preemption, so that the best sequence stays the best until it ends: that is why preemption cannot livelock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) priority: i32,
    pub(crate) arrival: u64,
}

/// Where it stands with the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// In line; the worker does not know it.
    Waiting,
    /// In a slot, holding blocks.
    Running(SequenceRef),
    /// In line, slot and blocks given back, with results of its old tenancy still to come.
    Preempted(SequenceRef),
}

/// The derived view of standing and progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Waiting,
    /// Known tokens are left to compute.
    Prefilling,
    /// The next row computes the token sampled last.
    Decoding,
    /// All it may generate is planned, if drafts are accepted; results are awaited.
    Finishing,
    Preempted,
}

/// That it may have killed a group.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Suspicion {
    /// Groups that died while it was the only suspect with a row in flight.
    pub(crate) num_strikes: u32,
}

/// One row in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlightRow {
    pub(crate) step_id: u64,
    /// Computed at most: without its drafts a decode is one token.
    pub(crate) num_tokens: u32,
    /// Yielded at most: none by the chunks before a prompt's last, one by the last, one and its drafts by a decode.
    pub(crate) max_yield: u32,
}

/// One request between `submit` and its end.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// As submitted, but `token_ids` grows with what is generated.
    pub(crate) request: NewRequest,
    pub(crate) rank: Rank,
    pub(crate) standing: Standing,
    pub(crate) was_started: bool,
    /// The block table. After a preemption it is only a record of what its rows in flight read.
    pub(crate) blocks: Vec<BlockId>,
    /// How many blocks, at the table's front, are in the prefix tree.
    pub(crate) num_published: usize,
    /// Another block holds the same prefix in the tree: nothing of this table enters it any more. (To hang further
    /// blocks below the other's would let a held node have an unheld parent.)
    pub(crate) is_detached: bool,
    /// Tokens sent with this tenancy; rows beyond them are decodes.
    pub(crate) num_sent_tokens: u32,
    /// Failures in a row of steps that could not have been smaller.
    pub(crate) num_step_failures: u32,
    /// From a death of the group until the next token.
    pub(crate) suspicion: Option<Suspicion>,
    num_committed: u32,
    in_flight: VecDeque<InFlightRow>,
}

impl Sequence {
    pub(crate) fn new(request: NewRequest, arrival: u64) -> Self {
        Self {
            rank: Rank { priority: request.priority, arrival },
            request,
            standing: Standing::Waiting,
            was_started: false,
            blocks: Vec::new(),
            num_published: 0,
            is_detached: false,
            num_sent_tokens: 0,
            num_step_failures: 0,
            suspicion: None,
            num_committed: 0,
            in_flight: VecDeque::new(),
        }
    }

    /// Begins a tenancy: the first `num_cached_blocks` blocks of `blocks` hold `num_computed` tokens already.
    pub(crate) fn begin(
        &mut self,
        tenancy: SequenceRef,
        blocks: Vec<BlockId>,
        num_cached_blocks: usize,
        computed: u32,
    ) {
        debug_assert!(self.in_flight.is_empty() && self.standing == Standing::Waiting);
        self.standing = Standing::Running(tenancy);
        self.blocks = blocks;
        self.num_published = num_cached_blocks;
        self.is_detached = false;
        self.num_sent_tokens = self.num_tokens();
        self.num_committed = computed;
    }

    /// Gives slot and blocks up (the caller returns them); what is in flight will still be delivered.
    pub(crate) fn preempt(&mut self) {
        if let Standing::Running(tenancy) = self.standing {
            self.standing = Standing::Preempted(tenancy);
            self.settle();
        }
    }

    /// Gives up what is in flight as well.
    pub(crate) fn roll_back(&mut self) {
        self.in_flight.clear();
        self.standing = Standing::Waiting;
    }

    /// Its worker is gone, and with it all that it held there.
    pub(crate) fn lose_worker(&mut self) {
        self.roll_back();
        self.blocks.clear();
    }

    /// Notes a row that has been planned.
    pub(crate) fn plan(&mut self, row: InFlightRow) {
        debug_assert!(matches!(self.standing, Standing::Running(_)));
        debug_assert!(self.in_flight.back().is_none_or(|last| last.step_id < row.step_id), "steps out of order");
        self.in_flight.push_back(row);
    }

    /// Takes the oldest row off the FIFO: its KV is there, less that of the drafts which its `num_yielded` tokens show to
    /// have been refused.
    pub(crate) fn commit(&mut self, step_id: u64, num_yielded: u32) {
        let row = self.in_flight.pop_front();
        debug_assert!(row.is_some_and(|row| row.step_id == step_id), "step {step_id} is not the oldest in flight");
        self.num_committed += row.map_or(0, |row| row.num_tokens - (row.max_yield - num_yielded));
        self.num_step_failures = 0;
        self.settle();
    }

    /// A preempted sequence may be admitted again when nothing is in flight.
    fn settle(&mut self) {
        if matches!(self.standing, Standing::Preempted(_)) && self.in_flight.is_empty() {
            self.standing = Standing::Waiting;
        }
    }

    /// Takes a generated token and says whether it is the last.
    pub(crate) fn accept(&mut self, token_id: u32) -> Option<FinishReason> {
        self.request.token_ids.push(token_id);
        let num_generated = self.num_generated();
        let may_stop = num_generated > self.request.min_new_tokens;
        if may_stop && self.request.stop_token_ids.binary_search(&token_id).is_ok() {
            return Some(FinishReason::StopToken(token_id));
        }
        (num_generated >= self.request.max_new_tokens).then_some(FinishReason::Length)
    }

    /// The tenancy that results may still come for.
    pub(crate) fn tenancy(&self) -> Option<SequenceRef> {
        match self.standing {
            Standing::Waiting => None,
            Standing::Running(tenancy) | Standing::Preempted(tenancy) => Some(tenancy),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.standing {
            Standing::Waiting => Phase::Waiting,
            Standing::Preempted(_) => Phase::Preempted,
            Standing::Running(_) if self.num_planned() < self.num_sent_tokens => Phase::Prefilling,
            Standing::Running(_) if self.num_wanted() > 0 => Phase::Decoding,
            Standing::Running(_) => Phase::Finishing,
        }
    }

    /// Known tokens: prompt and generated.
    pub(crate) fn num_tokens(&self) -> u32 {
        self.request.token_ids.len() as u32
    }

    pub(crate) fn num_generated(&self) -> u32 {
        self.num_tokens() - self.request.num_prompt_tokens
    }

    /// Tokens whose KV is known to be there.
    pub(crate) fn num_committed(&self) -> u32 {
        self.num_committed
    }

    /// Tokens whose KV will be there, at most, when all that is in flight has been answered: the next row's first
    /// position is not beyond it.
    pub(crate) fn num_planned(&self) -> u32 {
        self.num_committed + self.in_flight.iter().map(|row| row.num_tokens).sum::<u32>()
    }

    /// Tokens that rows in flight will yield at most.
    pub(crate) fn num_awaited(&self) -> u32 {
        self.in_flight.iter().map(|row| row.max_yield).sum()
    }

    /// Tokens that may still be planned to be yielded.
    pub(crate) fn num_wanted(&self) -> u32 {
        self.request.max_new_tokens - self.num_generated() - self.num_awaited()
    }

    pub(crate) fn has_rows_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Tokens that the block table has room for beyond what is planned.
    pub(crate) fn num_spare(&self, block_size: u32) -> u32 {
        self.blocks.len() as u32 * block_size - self.num_planned()
    }

    /// Whether the next decode may write beyond the block table.
    pub(crate) fn needs_block(&self, block_size: u32) -> bool {
        self.num_spare(block_size) == 0
    }
}
