//! Attention in plain Rust: row by row, the same tiles and segments as the vector kernels.

use crate::Float;
use crate::elementary::exp;
use crate::paged_attention::{HeadCache, Partial, QueryRows, TILE, cut, soften};
use std::ops::Range;

/// Sums a dot product keeps side by side, so that the compiler can use vectors.
const LANES: usize = 16;

#[inline(always)]
pub(crate) fn attend<C: Float>(
    head: &HeadCache<'_, C>,
    positions: Range<usize>,
    rows: &QueryRows<'_>,
    partial: &mut Partial<'_>,
) {
    let head_dim = head.head_dim();
    let mut offsets = [0; TILE];
    for positions in cut(positions, TILE) {
        let offsets = &mut offsets[..positions.len()];
        head.offsets(positions.start, offsets);
        for (row, visible) in rows.visible.iter().enumerate() {
            let visible = visible.within(positions.start, positions.len());
            let range = row * head_dim..(row + 1) * head_dim;
            let mut state = Row {
                weighted: &mut partial.weighted[range.clone()],
                maximum: &mut partial.maximum[row],
                sum: &mut partial.sum[row],
            };
            state.attend(&rows.queries[range], head, &offsets[visible], rows.softcap);
        }
    }
}

struct Row<'a> {
    weighted: &'a mut [f32],
    maximum: &'a mut f32,
    sum: &'a mut f32,
}

impl Row<'_> {
    #[inline(always)]
    fn attend<C: Float>(&mut self, query: &[f32], head: &HeadCache<'_, C>, offsets: &[usize], softcap: Option<f32>) {
        if offsets.is_empty() {
            return;
        }
        let mut scores = [0.0; TILE];
        let scores = &mut scores[..offsets.len()];
        for (score, offset) in scores.iter_mut().zip(offsets) {
            *score = dot(query, &head.keys()[*offset..offset + query.len()]);
        }
        if let Some(cap) = softcap {
            soften(scores, cap);
        }
        let maximum = scores.iter().copied().fold(*self.maximum, f32::max);
        let keep = (*self.maximum - maximum).exp();
        *self.maximum = maximum;
        *self.sum *= keep;
        self.weighted.iter_mut().for_each(|weighted| *weighted *= keep);
        for score in scores.iter_mut() {
            *score = exp(*score - maximum);
        }
        for (weight, offset) in scores.iter().zip(offsets) {
            *self.sum += weight;
            for (weighted, value) in self.weighted.iter_mut().zip(&head.values()[*offset..offset + query.len()]) {
                *weighted += weight * value.to_f32();
            }
        }
    }
}

#[inline(always)]
fn dot<C: Float>(query: &[f32], key: &[C]) -> f32 {
    let mut sums = [0.0; LANES];
    let (queries, keys) = (query.chunks_exact(LANES), key.chunks_exact(LANES));
    let tail: f32 = queries.remainder().iter().zip(keys.remainder()).map(|(q, k)| q * k.to_f32()).sum();
    for (query, key) in queries.zip(keys) {
        for lane in 0..LANES {
            sums[lane] += query[lane] * key[lane].to_f32();
        }
    }
    sums.iter().sum::<f32>() + tail
}
