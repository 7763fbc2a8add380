//! Causal attention over a paged cache: prompt chunks and decodes of many sequences in one call.
//!
//! A task is up to 96 rows (query, head of one kv group) of one sequence, so that keys and values are read once for
//! them all. The context is cut into segments of 128 positions from position 0; a segment runs an online softmax over
//! tiles of 64, and segments merge in order. A row's arithmetic therefore depends on its own position alone: it is
//! bit-equal in a chunk, in a whole prompt, in a decode, and when segments of a long context run on several threads.
//! A sliding window moves where a row begins to see, never the cuts; blocks that lie before it are not read.
//! Source: online softmax, arXiv 1805.02867; split contexts, "Flash-Decoding" (Dao et al., 2023).

mod batch;
mod kv_cache;

pub use batch::{AttentionBatch, PagedCache, Scoring};
pub(crate) use batch::{HeadCache, RowTile};
pub(crate) use kv_cache::slot_start;
pub use kv_cache::write_kv_cache;

use crate::elementary::tanh;
use crate::threads::{Phase, SharedOutput, max_threads, parallel_phases, threads_for};
use crate::{Float, InstructionSet, KernelError, Rows, simd};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::ops::Range;

/// Rows that share one pass over keys and values.
pub(crate) const MAX_ROWS: usize = 96;
/// Positions that share one step of the online softmax.
pub(crate) const TILE: usize = 64;
/// Positions after which the softmax starts anew, its result to be merged. With few rows a segment is a task: shorter
/// ones divide better over threads, and cost more merges.
const SEGMENT: usize = 128;

/// What a kernel reads of the queries: `[rows][head_dim]`, scaled, and which positions each row sees.
pub(crate) struct QueryRows<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) visible: &'a [Visible],
    /// Bound of the scores' magnitude, see [`soften`].
    pub(crate) softcap: Option<f32>,
}

/// The positions that a row sees: from `first` up to, not including, `end`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visible {
    pub(crate) first: usize,
    pub(crate) end: usize,
}

impl Visible {
    /// What the row sees of the `length` positions from `start`, counted from there.
    #[inline]
    pub(crate) fn within(self, start: usize, length: usize) -> Range<usize> {
        let end = self.end.saturating_sub(start).min(length);
        self.first.saturating_sub(start).min(end)..end
    }
}

/// Bends scores so that none is beyond `cap`: `cap * tanh(score / cap)`. Source: Gemma 2, arXiv 2408.00118, section 2.
#[inline(always)]
pub(crate) fn soften(scores: &mut [f32], cap: f32) {
    for score in scores {
        *score = cap * tanh(*score / cap);
    }
}

/// Cuts positions at the multiples of `size`.
pub(crate) fn cut(positions: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let Range { start, end } = positions;
    (start / size..end.div_ceil(size)).map(move |index| start.max(index * size)..end.min((index + 1) * size))
}

/// A softmax not yet divided by its sum: `weighted` is `[rows][head_dim]`; a row that saw nothing has maximum -inf.
pub(crate) struct Partial<'a> {
    pub(crate) weighted: &'a mut [f32],
    pub(crate) maximum: &'a mut [f32],
    pub(crate) sum: &'a mut [f32],
}

impl<'a> Partial<'a> {
    fn num_floats(num_rows: usize, head_dim: usize) -> usize {
        num_rows * (head_dim + 2)
    }

    fn new(floats: &'a mut [f32], num_rows: usize, head_dim: usize) -> Self {
        let (weighted, rest) = floats.split_at_mut(num_rows * head_dim);
        let (maximum, sum) = rest.split_at_mut(num_rows);
        Self { weighted, maximum, sum }
    }

    fn clear(&mut self) {
        self.weighted.fill(0.0);
        self.maximum.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
    }

    /// Takes in the partial of the next positions.
    #[inline(always)]
    fn merge(&mut self, next: &Partial<'_>) {
        let head_dim = self.weighted.len() / self.maximum.len();
        for row in 0..self.maximum.len() {
            // Merging nothing with nothing would be 0 * e^(inf - inf).
            if next.maximum[row] == f32::NEG_INFINITY {
                continue;
            }
            let maximum = self.maximum[row].max(next.maximum[row]);
            let (old, new) = ((self.maximum[row] - maximum).exp(), (next.maximum[row] - maximum).exp());
            self.maximum[row] = maximum;
            self.sum[row] = self.sum[row] * old + next.sum[row] * new;
            let range = row * head_dim..(row + 1) * head_dim;
            for (mine, theirs) in self.weighted[range.clone()].iter_mut().zip(&next.weighted[range]) {
                *mine = *mine * old + theirs * new;
            }
        }
    }
}

/// A thread's buffers, kept from call to call.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    visible: Vec<Visible>,
    total: Vec<f32>,
    segment: Vec<f32>,
    tile: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Attends from each query to the positions of its sequence up to its own, or to the last of them (`scoring.window`).
///
/// `q` has a row of `num_heads * head_dim` values a token, the sequences one after the other; query `i` of sequence `s`
/// sits at position `context_lens[s] - num_queries + i`, and its key is already in the cache. `out` is contiguous, as
/// `q`, and wholly overwritten. All arithmetic is float32.
pub fn paged_attention<Q: Float, C: Float>(
    q: Rows<'_, Q>,
    cache: &PagedCache<'_, C>,
    batch: &AttentionBatch<'_>,
    scoring: Scoring,
    out: &mut [Q],
    set: InstructionSet,
) -> Result<(), KernelError> {
    check(q.num_rows(), q.row_length(), cache, batch, scoring)?;
    if out.len() != q.num_rows() * q.row_length() {
        return Err(KernelError::Count { name: "out", expected: q.num_rows() * q.row_length(), got: out.len() });
    }
    let schedule = Schedule::new(batch, cache, q.row_length(), scoring);
    let mut partials = vec![0.0; schedule.num_partials()];
    let call = Call {
        q,
        cache: *cache,
        batch: *batch,
        scoring,
        schedule: &schedule,
        partials: SharedOutput::new(&mut partials),
        out: SharedOutput::new(out),
        set,
    };
    #[allow(unsafe_code)]
    // SAFETY: `out` and the partials belong to this call, whose tasks each run once.
    let attend = |task| unsafe { call.attend(task) };
    #[allow(unsafe_code)]
    // SAFETY: as above; the phase before has made the partials.
    let merge = |task| unsafe { call.merge(task) };
    parallel_phases(
        threads_for(schedule.nanoseconds),
        &[
            Phase { num_tasks: schedule.num_tasks(), task: &attend },
            Phase { num_tasks: schedule.num_merges(), task: &merge },
        ],
    );
    Ok(())
}

/// Refuses what the kernels cannot look up, for queries of that many heads and tokens.
pub(crate) fn check<C>(
    num_tokens: usize,
    row_length: usize,
    cache: &PagedCache<'_, C>,
    batch: &AttentionBatch<'_>,
    scoring: Scoring,
) -> Result<(), KernelError> {
    cache.check_heads(row_length)?;
    scoring.check()?;
    batch.check(num_tokens, cache, scoring)
}

/// A call cut into tasks.
pub(crate) struct Schedule {
    tiles: Vec<RowTile>,
    /// A task each, their results to be merged tile by tile; none: a tile is a task.
    pieces: Vec<Piece>,
    group_size: usize,
    head_dim: usize,
    nanoseconds: usize,
    /// How many tasks run at once.
    num_threads: usize,
}

/// One segment of a tile's positions.
struct Piece {
    tile: usize,
    positions: Range<usize>,
    /// Where its partial begins.
    start: usize,
}

impl Schedule {
    pub(crate) fn new<C>(
        batch: &AttentionBatch<'_>,
        cache: &PagedCache<'_, C>,
        row_length: usize,
        scoring: Scoring,
    ) -> Self {
        let (head_dim, num_kv_heads) = (cache.head_dim(), cache.num_kv_heads());
        let group_size = row_length / head_dim / num_kv_heads;
        let tiles = batch.row_tiles(num_kv_heads, group_size, scoring);
        let nanoseconds = tiles.iter().map(|tile| cost(tile, head_dim)).sum();
        let num_threads = threads_for(nanoseconds);
        let mut schedule = Self { tiles, pieces: Vec::new(), group_size, head_dim, nanoseconds, num_threads };
        if num_threads > 1 && schedule.tiles.len() < 4 * max_threads() {
            schedule.split();
        } else {
            // The longest first: a long one taken last would run alone.
            schedule.tiles.sort_by_key(|tile| Reverse(cost(tile, head_dim)));
        }
        schedule
    }

    /// For few rows with a long context.
    fn split(&mut self) {
        let mut start = 0;
        for (index, tile) in self.tiles.iter().enumerate() {
            for positions in cut(tile.positions(), SEGMENT) {
                self.pieces.push(Piece { tile: index, positions, start });
                start += Partial::num_floats(tile.num_rows, self.head_dim);
            }
        }
    }

    /// About how long one thread takes.
    pub(crate) fn nanoseconds(&self) -> usize {
        self.nanoseconds
    }

    pub(crate) fn num_tasks(&self) -> usize {
        if self.pieces.is_empty() { self.tiles.len() } else { self.pieces.len() }
    }

    pub(crate) fn num_merges(&self) -> usize {
        if self.pieces.is_empty() { 0 } else { self.tiles.len() }
    }

    /// Floats that [`Call::merge`] merges.
    pub(crate) fn num_partials(&self) -> usize {
        let end = |piece: &Piece| piece.start + Partial::num_floats(self.tiles[piece.tile].num_rows, self.head_dim);
        self.pieces.last().map_or(0, end)
    }
}

/// About how many nanoseconds a tile of rows takes, for scheduling.
fn cost(tile: &RowTile, head_dim: usize) -> usize {
    cut(tile.positions(), TILE).count() * (300 + 30 * tile.num_rows) * head_dim / 64
}

/// What the tasks of one call share; everything is checked.
pub(crate) struct Call<'a, Q, C> {
    pub(crate) q: Rows<'a, Q>,
    pub(crate) cache: PagedCache<'a, C>,
    pub(crate) batch: AttentionBatch<'a>,
    pub(crate) scoring: Scoring,
    pub(crate) schedule: &'a Schedule,
    pub(crate) partials: SharedOutput<'a, f32>,
    pub(crate) out: SharedOutput<'a, Q>,
    pub(crate) set: InstructionSet,
}

#[allow(unsafe_code)]
impl<Q: Float, C: Float> Call<'_, Q, C> {
    /// # Safety
    /// `task` is below `schedule.num_tasks()`, and only this call's tasks, each once, use `out` and the partials.
    pub(crate) unsafe fn attend(&self, task: usize) {
        self.prefetch_task(task + self.schedule.num_threads);
        let Some(piece) = self.schedule.pieces.get(task) else {
            return self.attend_whole(&self.schedule.tiles[task]);
        };
        let tile = &self.schedule.tiles[piece.tile];
        let length = Partial::num_floats(tile.num_rows, self.schedule.head_dim);
        // SAFETY: pieces' parts follow each other without overlap, and a piece is one task.
        let part = unsafe { self.partials.part(piece.start, length) };
        SCRATCH.with_borrow_mut(|scratch| {
            self.load_queries(tile, scratch);
            let mut partial = Partial::new(part, tile.num_rows, self.schedule.head_dim);
            self.attend_segment(tile, piece.positions.clone(), scratch, &mut partial);
        });
    }

    /// Merges a tile's partials in order.
    ///
    /// # Safety
    /// As [`Call::attend`], whose tasks are done; `task` is below `schedule.num_merges()`.
    pub(crate) unsafe fn merge(&self, task: usize) {
        let tile = &self.schedule.tiles[task];
        let length = Partial::num_floats(tile.num_rows, self.schedule.head_dim);
        let first = self.schedule.pieces.partition_point(|piece| piece.tile < task);
        let num_pieces = self.schedule.pieces[first..].iter().take_while(|piece| piece.tile == task).count();
        // SAFETY: a tile's pieces follow each other, and this task alone has them.
        let partials = unsafe { self.partials.part(self.schedule.pieces[first].start, num_pieces * length) };
        let (sum, following) = partials.split_at_mut(length);
        let mut sum = Partial::new(sum, tile.num_rows, self.schedule.head_dim);
        for next in following.chunks_exact_mut(length) {
            let next = Partial::new(next, tile.num_rows, self.schedule.head_dim);
            self.set.vectorize(
                #[inline(always)]
                || sum.merge(&next),
            );
        }
        self.store(tile, &sum);
    }

    /// The segments of a tile one after the other.
    fn attend_whole(&self, tile: &RowTile) {
        SCRATCH.with_borrow_mut(|scratch| {
            let num_floats = Partial::num_floats(tile.num_rows, self.schedule.head_dim);
            let mut total = std::mem::take(&mut scratch.total);
            let mut segment = std::mem::take(&mut scratch.segment);
            total.resize(num_floats, 0.0);
            segment.resize(num_floats, 0.0);
            self.load_queries(tile, scratch);
            let mut sum = Partial::new(&mut total, tile.num_rows, self.schedule.head_dim);
            let mut segments = cut(tile.positions(), SEGMENT).peekable();
            if let Some(first) = segments.next() {
                self.attend_segment(tile, first, scratch, &mut sum);
            }
            while let Some(positions) = segments.next() {
                if let Some(following) = segments.peek() {
                    self.prefetch(tile, following.clone());
                }
                let mut next = Partial::new(&mut segment, tile.num_rows, self.schedule.head_dim);
                self.attend_segment(tile, positions, scratch, &mut next);
                self.set.vectorize(
                    #[inline(always)]
                    || sum.merge(&next),
                );
            }
            self.store(tile, &sum);
            (scratch.total, scratch.segment) = (total, segment);
        });
    }

    /// Asks for what a task reads first. Of many short contexts each is some stretches of memory, too short for the
    /// hardware to see where they lead.
    fn prefetch_task(&self, task: usize) {
        let Schedule { tiles, pieces, .. } = self.schedule;
        if pieces.is_empty() {
            let Some(tile) = tiles.get(task) else { return };
            if let Some(first) = cut(tile.positions(), SEGMENT).next() {
                self.prefetch(tile, first);
            }
        } else if let Some(piece) = pieces.get(task) {
            self.prefetch(&tiles[piece.tile], piece.positions.clone());
        }
    }

    fn prefetch(&self, tile: &RowTile, positions: Range<usize>) {
        self.cache.head(self.batch.block_table(tile.sequence), tile.kv_head).prefetch(positions);
    }

    fn attend_segment(
        &self,
        tile: &RowTile,
        positions: Range<usize>,
        scratch: &mut Scratch,
        partial: &mut Partial<'_>,
    ) {
        partial.clear();
        let head = self.cache.head(self.batch.block_table(tile.sequence), tile.kv_head);
        let Scratch { queries, visible, tile: buffer, .. } = scratch;
        let rows = QueryRows { queries, visible, softcap: self.scoring.softcap };
        simd::attend(&head, positions, &rows, buffer, partial, self.set);
    }

    fn load_queries(&self, tile: &RowTile, scratch: &mut Scratch) {
        let head_dim = self.cache.head_dim();
        scratch.queries.resize(tile.num_rows * head_dim, 0.0);
        scratch.visible.clear();
        for (row, query) in scratch.queries.chunks_exact_mut(head_dim).enumerate() {
            let (token, at) = self.place(tile, row);
            let values = &self.q.row(token)[at..at + head_dim];
            self.set.vectorize(
                #[inline(always)]
                || {
                    for (query, value) in query.iter_mut().zip(values) {
                        *query = value.to_f32() * self.scoring.scale;
                    }
                },
            );
            scratch.visible.push(self.scoring.visible(tile.position(row, self.schedule.group_size)));
        }
    }

    fn store(&self, tile: &RowTile, partial: &Partial<'_>) {
        let head_dim = self.cache.head_dim();
        for row in 0..tile.num_rows {
            let (token, at) = self.place(tile, row);
            // SAFETY: a (token, head) belongs to one row of one tile, and a tile is stored by one task.
            let out = unsafe { self.out.part(token * self.q.row_length() + at, head_dim) };
            let weighted = &partial.weighted[row * head_dim..(row + 1) * head_dim];
            let inverse = 1.0 / partial.sum[row];
            self.set.vectorize(
                #[inline(always)]
                || {
                    for (out, weighted) in out.iter_mut().zip(weighted) {
                        *out = Q::from_f32(weighted * inverse);
                    }
                },
            );
        }
    }

    /// The token of a tile's row, and where its head starts in the token's values.
    fn place(&self, tile: &RowTile, row: usize) -> (usize, usize) {
        let row = tile.first_row + row;
        let group_size = self.schedule.group_size;
        let head = tile.kv_head * group_size + row % group_size;
        (tile.first_token + row / group_size, head * self.cache.head_dim())
    }
}

#[cfg(test)]
mod tests;
