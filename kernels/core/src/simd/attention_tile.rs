//! What attention with vectors of any width shares: tiles of positions, and the buffers that their steps hand on.

use crate::paged_attention::{HeadCache, Partial, QueryRows, TILE, cut};
use std::marker::PhantomData;
use std::ops::Range;

/// One tile of positions; `I` is the instruction set whose steps it is made for.
pub(super) struct Tile<'a, C, I> {
    pub(super) head: &'a HeadCache<'a, C>,
    pub(super) rows: &'a QueryRows<'a>,
    /// Where each position's key and value begin; before the first that is read and beyond `length` the nearest one's, so
    /// that loads need no mask.
    pub(super) offsets: [usize; TILE],
    pub(super) length: usize,
    /// The first position, a multiple of `TILE`.
    pub(super) start: usize,
    /// `[head_dim][TILE]`; columns beyond `length` hold something finite or not, which no row sees.
    pub(super) keys: &'a mut [f32],
    /// `[rows][TILE]`: scores, then weights.
    pub(super) scores: &'a mut [f32],
    /// `[rows][lanes]`: sums of weights, lane by lane.
    pub(super) sums: &'a mut [f32],
    set: PhantomData<I>,
}

/// Calls `step` with each tile of `positions` in order, and sums up the lanes of the weights at the end.
///
/// Before a step, the lengths of all buffers, and that every vector of `head_dim` from an offset is inside the cache,
/// are asserted: steps may rely on them.
pub(super) fn for_each_tile<C, I>(
    head: &HeadCache<'_, C>,
    positions: Range<usize>,
    rows: &QueryRows<'_>,
    (scratch, num_lanes): (&mut Vec<f32>, usize),
    partial: &mut Partial<'_>,
    step: impl Fn(&mut Tile<'_, C, I>, &mut Partial<'_>),
) {
    let (head_dim, num_rows) = (head.head_dim(), rows.visible.len());
    assert!(head_dim.is_multiple_of(num_lanes) && head.keys().len() == head.values().len());
    assert!(rows.queries.len() == num_rows * head_dim && partial.weighted.len() == num_rows * head_dim);
    assert!(partial.maximum.len() == num_rows && partial.sum.len() == num_rows);
    scratch.resize(TILE * (head_dim + num_rows) + num_lanes * num_rows, 0.0);
    let (keys, rest) = scratch.split_at_mut(TILE * head_dim);
    let (scores, sums) = rest.split_at_mut(TILE * num_rows);
    sums.fill(0.0);
    let mut tile = Tile { head, rows, offsets: [0; TILE], length: 0, start: 0, keys, scores, sums, set: PhantomData };
    for positions in cut(positions, TILE) {
        // Positions keep their lanes, whatever the first: sums over lanes are then in one order.
        tile.start = positions.start / TILE * TILE;
        tile.length = positions.end - tile.start;
        let skipped = positions.start - tile.start;
        head.offsets(positions.start, &mut tile.offsets[skipped..tile.length]);
        let (first, last) = (tile.offsets[skipped], tile.offsets[tile.length - 1]);
        tile.offsets[..skipped].fill(first);
        tile.offsets[tile.length..].fill(last);
        assert!(tile.offsets.iter().all(|offset| offset + head_dim <= head.keys().len()));
        step(&mut tile, partial);
    }
    for (sum, lanes) in partial.sum.iter_mut().zip(tile.sums.chunks_exact(num_lanes)) {
        *sum = lanes.iter().sum();
    }
}
