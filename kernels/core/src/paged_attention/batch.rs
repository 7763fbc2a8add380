//! The paged cache and the batch as the kernels see them, checked once a call so that no lookup can go astray.

use super::{MAX_ROWS, Visible, cut};
use crate::{KernelError, Rows, simd};
use std::ops::Range;

/// Keys and values, each `[num_blocks, num_kv_heads, block_size, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct PagedCache<'a, C> {
    keys: &'a [C],
    values: &'a [C],
    num_blocks: usize,
    num_kv_heads: usize,
    block_size: usize,
    head_dim: usize,
}

impl<'a, C> PagedCache<'a, C> {
    /// Views two contiguous tensors of the shape `[num_blocks, num_kv_heads, block_size, head_dim]`.
    pub fn new(keys: &'a [C], values: &'a [C], shape: [usize; 4]) -> Result<Self, KernelError> {
        let [_, num_kv_heads, block_size, head_dim] = shape;
        let expected = shape.iter().product();
        for (name, got) in [("key_cache", keys.len()), ("value_cache", values.len())] {
            if got != expected || num_kv_heads * block_size * head_dim == 0 {
                return Err(KernelError::Count { name, expected, got });
            }
        }
        Ok(Self::of(keys, values, shape))
    }

    /// The same of slices whose lengths are checked.
    pub(crate) fn of(
        keys: &'a [C],
        values: &'a [C],
        [num_blocks, num_kv_heads, block_size, head_dim]: [usize; 4],
    ) -> Self {
        Self { keys, values, num_blocks, num_kv_heads, block_size, head_dim }
    }

    /// Elements of one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Heads of keys and values.
    pub fn num_kv_heads(&self) -> usize {
        self.num_kv_heads
    }

    /// Query heads in a row of that length, which must be a multiple of the kv heads.
    pub(super) fn check_heads(&self, row_length: usize) -> Result<usize, KernelError> {
        let group = self.num_kv_heads * self.head_dim;
        if row_length == 0 || !row_length.is_multiple_of(group) {
            return Err(KernelError::RowLength {
                name: "q",
                expected: row_length.div_ceil(group).max(1) * group,
                got: row_length,
            });
        }
        Ok(row_length / self.head_dim)
    }

    pub(super) fn head(&self, block_table: &'a [i32], kv_head: usize) -> HeadCache<'a, C>
    where
        C: Copy,
    {
        HeadCache { cache: *self, block_table, kv_head }
    }
}

/// One sequence's keys and values of one head, addressed by position.
pub(crate) struct HeadCache<'a, C> {
    cache: PagedCache<'a, C>,
    block_table: &'a [i32],
    kv_head: usize,
}

impl<'a, C> HeadCache<'a, C> {
    pub(crate) fn head_dim(&self) -> usize {
        self.cache.head_dim
    }

    /// Where the vectors of `offsets.len()` positions from `start` begin, in `keys()` and `values()` alike.
    pub(crate) fn offsets(&self, start: usize, offsets: &mut [usize]) {
        let PagedCache { block_size, head_dim, num_kv_heads, .. } = self.cache;
        let (mut block, mut slot) = (start / block_size, start % block_size);
        let first = |block: usize| (self.block_table[block] as usize * num_kv_heads + self.kv_head) * block_size;
        for offset in offsets {
            if slot == block_size {
                (block, slot) = (block + 1, 0);
            }
            *offset = (first(block) + slot) * head_dim;
            slot += 1;
        }
    }

    /// Asks for the keys and values of some positions.
    pub(super) fn prefetch(&self, positions: Range<usize>) {
        let PagedCache { block_size, head_dim, num_kv_heads, .. } = self.cache;
        for piece in cut(positions, block_size) {
            let block = self.block_table[piece.start / block_size] as usize * num_kv_heads + self.kv_head;
            let start = (block * block_size + piece.start % block_size) * head_dim;
            for vectors in [self.cache.keys, self.cache.values] {
                simd::prefetch(&vectors[start..start + piece.len() * head_dim]);
            }
        }
    }

    pub(crate) fn keys(&self) -> &'a [C] {
        self.cache.keys
    }

    pub(crate) fn values(&self) -> &'a [C] {
        self.cache.values
    }
}

/// How scores are made from queries and keys, and which of them count.
#[derive(Debug, Clone, Copy)]
pub struct Scoring {
    /// Multiplied with the dot products.
    pub scale: f32,
    /// Scores become `softcap * tanh(score / softcap)`, after scaling.
    pub softcap: Option<f32>,
    /// A query sees its own position and `window - 1` before it.
    pub window: Option<usize>,
}

impl Scoring {
    /// Scaled scores of all positions up to the query's own.
    pub fn causal(scale: f32) -> Self {
        Self { scale, softcap: None, window: None }
    }

    pub(super) fn check(self) -> Result<(), KernelError> {
        if let Some(softcap) = self.softcap.filter(|softcap| !softcap.is_finite() || *softcap <= 0.0) {
            let expected = "a finite number above 0".to_owned();
            return Err(KernelError::Value { name: "softcap", got: softcap.to_string(), expected });
        }
        if self.window == Some(0) {
            return Err(KernelError::Value { name: "window", got: "0".to_owned(), expected: "at least 1".to_owned() });
        }
        Ok(())
    }

    /// What the query at `position` sees.
    pub(super) fn visible(self, position: usize) -> Visible {
        let end = position + 1;
        Visible { first: self.window.map_or(0, |window| end.saturating_sub(window)), end }
    }
}

/// Which tokens belong to which sequence, and where the sequences' blocks are.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBatch<'a> {
    /// A row a sequence: block `i` holds positions `i * block_size` and on. Entries past the context, and those of blocks
    /// that lie before every window, are not read.
    pub block_tables: Rows<'a, i32>,
    /// Positions of each sequence, those of this call's tokens included.
    pub context_lens: &'a [i32],
    /// Sequence `s` has the tokens `cu_seqlens_q[s]` to `cu_seqlens_q[s + 1]`.
    pub cu_seqlens_q: &'a [i32],
}

/// Rows of one sequence and kv head; row `r` is query `r / group_size`, head `r % group_size` of the group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowTile {
    pub(crate) sequence: usize,
    pub(crate) kv_head: usize,
    /// The sequence's first token in the call.
    pub(crate) first_token: usize,
    pub(crate) first_row: usize,
    pub(crate) num_rows: usize,
    /// Positions before the sequence's first token of this call.
    pub(crate) num_past: usize,
    /// What the tile's first row sees first, and its last row last.
    pub(crate) visible: Visible,
}

impl RowTile {
    /// The positions that some row of the tile sees.
    pub(crate) fn positions(&self) -> Range<usize> {
        self.visible.first..self.visible.end
    }

    /// Where the query of a row sits in its sequence.
    pub(crate) fn position(&self, row: usize, group_size: usize) -> usize {
        self.num_past + (self.first_row + row) / group_size
    }
}

impl<'a> AttentionBatch<'a> {
    pub(super) fn block_table(&self, sequence: usize) -> &'a [i32] {
        self.block_tables.row(sequence)
    }

    pub(super) fn check<C>(
        &self,
        num_tokens: usize,
        cache: &PagedCache<'_, C>,
        scoring: Scoring,
    ) -> Result<(), KernelError> {
        let num_sequences = self.context_lens.len();
        let counts = [
            ("cu_seqlens_q", num_sequences + 1, self.cu_seqlens_q.len()),
            ("block_tables", num_sequences, self.block_tables.num_rows()),
        ];
        for (name, expected, got) in counts {
            // A batch of no sequences may come with tables of no columns, which have no rows to count.
            if expected != got && num_sequences + got > 0 {
                return Err(KernelError::Count { name, expected, got });
            }
        }
        let (first, last) = (self.cu_seqlens_q.first(), self.cu_seqlens_q.last());
        if first.is_some_and(|first| *first != 0) || last.map_or(0, |last| *last as usize) != num_tokens {
            let got = format!("{first:?} to {last:?}");
            return Err(KernelError::Value { name: "cu_seqlens_q", got, expected: format!("0 to {num_tokens}") });
        }
        (0..num_sequences).try_for_each(|sequence| self.check_sequence(sequence, cache, scoring))
    }

    fn check_sequence<C>(&self, at: usize, cache: &PagedCache<'_, C>, scoring: Scoring) -> Result<(), KernelError> {
        let num_queries = i64::from(self.cu_seqlens_q[at + 1]) - i64::from(self.cu_seqlens_q[at]);
        let context = i64::from(self.context_lens[at]);
        if num_queries < 0 || context < num_queries {
            let got = format!("{context} with {num_queries} queries (sequence {at})");
            let expected = "at least as many as queries, and those not negative".to_owned();
            return Err(KernelError::Value { name: "context_lens", got, expected });
        }
        let table = self.block_table(at);
        let num_blocks = (context as usize).div_ceil(cache.block_size);
        if num_blocks > table.len() {
            return Err(KernelError::RowLength { name: "block_tables", expected: num_blocks, got: table.len() });
        }
        let first_seen = scoring.visible((context - num_queries) as usize).first.min(context as usize);
        let read = &table[first_seen / cache.block_size..num_blocks];
        match read.iter().find(|block| usize::try_from(**block).map_or(true, |b| b >= cache.num_blocks)) {
            Some(block) => {
                Err(KernelError::Index { name: "block_tables", at, got: i64::from(*block), limit: cache.num_blocks })
            }
            None => Ok(()),
        }
    }

    pub(super) fn row_tiles(&self, num_kv_heads: usize, group_size: usize, scoring: Scoring) -> Vec<RowTile> {
        let mut tiles = Vec::new();
        for (sequence, context) in self.context_lens.iter().enumerate() {
            let first_token = self.cu_seqlens_q[sequence] as usize;
            let num_queries = self.cu_seqlens_q[sequence + 1] as usize - first_token;
            let num_past = *context as usize - num_queries;
            for first_row in (0..num_queries * group_size).step_by(MAX_ROWS) {
                let num_rows = MAX_ROWS.min(num_queries * group_size - first_row);
                let first = scoring.visible(num_past + first_row / group_size).first;
                let visible = Visible { first, end: num_past + (first_row + num_rows - 1) / group_size + 1 };
                for kv_head in 0..num_kv_heads {
                    tiles.push(RowTile { sequence, kv_head, first_token, first_row, num_rows, num_past, visible });
                }
            }
        }
        tiles
    }
}
