//! What the worker's tables will look like when all sent plans have been applied, kept from the plans alone, and the
//! rules of the protocol checked against it as each plan is sent.

use forebay_scheduler::{Limits, NewSequence, RequestId, Row, RowFlags, SequenceRef, StepPlan};

use super::coverage::{Coverage, sometimes};

/// A sequence as sent.
pub(crate) struct Seat {
    pub(crate) id: RequestId,
    pub(crate) sequence: SequenceRef,
    pub(crate) table: Vec<u32>,
    pub(crate) num_sent: u32,
    /// Tokens that it may have computed at most, and has at least, when all that is in flight has been.
    pub(crate) position: u32,
    pub(crate) low: u32,
    /// Newest step with a row of it.
    pub(crate) last_row: Option<u64>,
}

/// A block as sent.
#[derive(Clone, Default)]
struct Block {
    /// Who may write it.
    owner: Option<SequenceRef>,
    /// Somebody was told that its content is complete: nobody may write it.
    is_sealed: bool,
    /// Plans sent when a row last read or wrote it: it may change hands when that many are answered.
    touched: u64,
    /// Plans sent when it was last written.
    written: u64,
}

/// The sent state.
pub(crate) struct Mirror {
    limits: Limits,
    pub(crate) seats: Vec<Option<Seat>>,
    next_epochs: Vec<u32>,
    blocks: Vec<Block>,
    pub(crate) num_sent: u64,
}

impl Mirror {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            seats: (0..limits.max_sequences).map(|_| None).collect(),
            next_epochs: vec![0; limits.max_sequences as usize],
            blocks: vec![Block::default(); limits.num_blocks as usize],
            num_sent: 0,
        }
    }

    /// A new incarnation; epochs must go on.
    pub(crate) fn reset(&mut self, limits: &Limits) {
        let mut next_epochs = std::mem::take(&mut self.next_epochs);
        next_epochs.resize(next_epochs.len().max(limits.max_sequences as usize), 0);
        *self = Self { next_epochs, ..Self::new(limits) };
    }

    pub(crate) fn seat_of(&self, id: RequestId) -> Option<&Seat> {
        self.seats.iter().flatten().find(|seat| seat.id == id)
    }

    /// Applies a plan as the worker will, in the protocol's order; `num_answered` results have come by now.
    pub(crate) fn apply(&mut self, plan: &StepPlan, num_answered: u64, coverage: &mut Coverage) {
        assert_eq!(plan.step_id, self.num_sent, "step ids have a gap");
        assert!(!plan.rows.is_empty(), "an empty plan was sent");
        self.num_sent += 1;
        for &released in &plan.released {
            let seat = self.seats[released.slot as usize].take();
            assert_eq!(seat.map(|seat| seat.sequence), Some(released), "released a tenancy that is not there");
            sometimes!(
                coverage,
                plan.new_sequences.iter().any(|new| new.sequence.slot == released.slot),
                SlotReusedInOnePlan
            );
        }
        for new in &plan.new_sequences {
            self.apply_new(new, num_answered, coverage);
        }
        for append in &plan.appends {
            let sequence = self.seats[append.slot as usize].as_ref().expect("blocks for an empty slot").sequence;
            assert!(!plan.new_sequences.iter().any(|new| new.sequence == sequence), "append to a new sequence");
            self.give(sequence, &append.block_ids, num_answered);
        }
        self.apply_rows(plan, num_answered, coverage);
    }

    fn apply_new(&mut self, new: &NewSequence, num_answered: u64, coverage: &mut Coverage) {
        let slot = new.sequence.slot as usize;
        assert!(self.seats[slot].is_none(), "slot {slot} is taken");
        assert!(self.seat_of(new.id).is_none(), "{:?} would sit twice", new.id);
        assert!(new.sequence.epoch >= self.next_epochs[slot], "slot {slot} repeats an epoch");
        self.next_epochs[slot] = new.sequence.epoch + 1;
        let num_cached = (new.num_computed_tokens / self.limits.block_size) as usize;
        assert_eq!(new.num_computed_tokens % self.limits.block_size, 0, "a hit must end at a block");
        assert!((new.num_computed_tokens as usize) < new.token_ids.len(), "a hit must leave a token to compute");
        let (cached, fresh) = new.block_ids.split_at(num_cached);
        for &block in cached {
            let block = &mut self.blocks[block as usize];
            block.is_sealed = true;
            assert!(block.written < self.num_sent, "a hit on a block that this very plan writes");
            sometimes!(coverage, block.written > num_answered, TwinReadsBlockInFlight);
        }
        self.seats[slot] = Some(Seat {
            id: new.id,
            sequence: new.sequence,
            table: cached.to_vec(),
            num_sent: new.token_ids.len() as u32,
            position: new.num_computed_tokens,
            low: new.num_computed_tokens,
            last_row: None,
        });
        self.give(new.sequence, fresh, num_answered);
    }

    /// A row's result has come: of the drafts that it might have computed, these many tokens are true.
    pub(crate) fn learn(&mut self, row: &Row, num_yielded: u32, is_decode: bool) {
        let seat = self.seats[row.sequence.slot as usize].as_mut().filter(|seat| seat.sequence == row.sequence);
        if let Some(seat) = seat.filter(|_| is_decode) {
            seat.position -= row.num_tokens - num_yielded;
            seat.low += num_yielded - 1;
        }
    }

    /// Blocks with a new owner: nobody in flight may still touch them.
    fn give(&mut self, sequence: SequenceRef, fresh: &[u32], num_answered: u64) {
        let seat = self.seats[sequence.slot as usize].as_mut().expect("an owner");
        for &id in fresh {
            assert!(id != 0 && id < self.limits.num_blocks, "block {id} is not to be given");
            let block = &mut self.blocks[id as usize];
            assert!(block.touched <= num_answered, "block {id} is given before its fence");
            assert!(!seat.table.contains(&id), "block {id} is twice in one table");
            *block = Block { owner: Some(sequence), ..Block::default() };
            seat.table.push(id);
        }
    }

    fn apply_rows(&mut self, plan: &StepPlan, num_answered: u64, coverage: &mut Coverage) {
        let num_tokens: u32 = plan.rows.iter().map(|row| row.num_tokens).sum();
        assert!(num_tokens <= self.limits.max_plan_tokens, "the plan is over its budget");
        let (decodes, chunks) = plan.rows.split_at(plan.num_decodes as usize);
        assert!(decodes.is_sorted_by(|a, b| a.sequence.slot < b.sequence.slot), "decodes are not sorted by slot");
        for (rows, is_decode) in [(decodes, true), (chunks, false)] {
            for row in rows {
                self.apply_row(plan.step_id, row, is_decode);
            }
        }
        for new in &plan.new_sequences {
            assert!(plan.rows.iter().any(|row| row.sequence == new.sequence), "a new sequence without a row");
        }
        let ahead = |seat: &&Seat| seat.last_row == Some(plan.step_id) && seat.position < seat.num_sent;
        sometimes!(coverage, self.seats.iter().flatten().any(|seat| ahead(&seat)), PromptInChunks);
        sometimes!(
            coverage,
            self.num_sent > num_answered + 1 && self.seats.iter().flatten().filter(ahead).count() > 0,
            ChunksOfOnePromptInFlight
        );
    }

    fn apply_row(&mut self, step_id: u64, row: &Row, is_decode: bool) {
        let seat = self.seats[row.sequence.slot as usize].as_mut().expect("a row for an empty slot");
        assert_eq!(seat.sequence, row.sequence, "a row for a former tenant");
        assert_ne!(seat.last_row, Some(step_id), "two rows of one sequence in a plan");
        seat.last_row = Some(step_id);
        assert!(row.num_tokens > 0);
        assert_eq!(is_decode, seat.position >= seat.num_sent, "a decode among chunks or a chunk among decodes");
        let start = seat.low;
        seat.position += row.num_tokens;
        seat.low += if is_decode { 1 } else { row.num_tokens };
        let max_decode = 1 + self.limits.max_draft_tokens;
        assert!(if is_decode { row.num_tokens <= max_decode } else { seat.position <= seat.num_sent });
        let own = RowFlags::SAMPLES | RowFlags::LAST_CHUNK;
        let expected = if seat.position >= seat.num_sent { own } else { 0 };
        assert_eq!(row.flags.0 & own, expected, "SAMPLES and LAST_CHUNK belong to the last known token's row");
        for (index, &id) in seat.table.iter().enumerate() {
            let block = &mut self.blocks[id as usize];
            block.touched = self.num_sent;
            let first = index as u32 * self.limits.block_size;
            if start < first + self.limits.block_size && first < seat.position {
                assert_eq!(block.owner, Some(row.sequence), "block {id} is written by who does not own it");
                assert!(!block.is_sealed, "block {id} is written after it was shared");
                block.written = self.num_sent;
            }
        }
        assert!(seat.position as usize <= seat.table.len() * self.limits.block_size as usize, "no block to write to");
    }
}
