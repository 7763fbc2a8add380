//! Attention with 256-bit vectors: 64 positions a tile, 32 of them and up to 3 rows of queries in registers at a time.
//!
//! The steps are those of the 512-bit kernel, and so are their orders: a score sums over `head_dim` in order, an output
//! over positions in order, however many rows share the pass.

use crate::elementary::exp;
use crate::paged_attention::{HeadCache, Partial, QueryRows, TILE, soften};
use crate::simd::attention_tile::{Tile, for_each_tile};
use crate::{Float, FloatKind, InstructionSet};
#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;
use std::ops::Range;

const LANES: usize = 8;
/// Vectors of positions, or of the output's columns, that are summed at once.
const VECTORS: usize = 4;
/// Rows whose sums are held in registers: 3 x 4 of the 16.
const REGISTER_ROWS: usize = 3;

/// Whose steps the tiles here are made for.
struct Avx2;

pub(crate) fn attend<C: Float>(
    set: InstructionSet,
    head: &HeadCache<'_, C>,
    positions: Range<usize>,
    rows: &QueryRows<'_>,
    scratch: &mut Vec<f32>,
    partial: &mut Partial<'_>,
) {
    assert!(set.is_avx2());
    for_each_tile(head, positions, rows, (scratch, LANES), partial, |tile: &mut Tile<'_, C, Avx2>, partial| {
        // SAFETY: `set` proves the features; buffer lengths and offsets are asserted by `for_each_tile`.
        unsafe {
            tile.transpose_keys();
            tile.score_rows();
            tile.weigh_rows(partial);
            tile.sum_values(partial.weighted);
        }
    });
}

impl<C: Float> Tile<'_, C, Avx2> {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn transpose_keys(&mut self) {
        for first in (0..self.length).step_by(LANES) {
            for dim in (0..self.head.head_dim()).step_by(LANES) {
                // SAFETY: offset + head_dim is inside the cache, and dim + 8 <= head_dim; `keys` is [head_dim][TILE] and
                // first + 8 <= TILE.
                unsafe {
                    let from = self.head.keys().as_ptr().add(dim);
                    let offsets = &*self.offsets.as_ptr().add(first).cast::<[usize; LANES]>();
                    let mut rows = [_mm256_setzero_ps(); LANES];
                    for (row, offset) in rows.iter_mut().zip(offsets) {
                        *row = load(from.add(*offset));
                    }
                    let to = self.keys.as_mut_ptr().add(dim * TILE + first);
                    for (i, column) in transpose(rows).into_iter().enumerate() {
                        _mm256_storeu_ps(to.add(i * TILE), column);
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn score_rows(&mut self) {
        let num_rows = self.rows.visible.len();
        for first in (0..num_rows).step_by(REGISTER_ROWS) {
            for position in (0..self.length).step_by(VECTORS * LANES) {
                // SAFETY: the rows first to first + R exist, and position + 32 <= TILE.
                unsafe {
                    match num_rows - first {
                        1 => self.score::<1>(first, position),
                        2 => self.score::<2>(first, position),
                        _ => self.score::<REGISTER_ROWS>(first, position),
                    }
                }
            }
        }
        if let Some(cap) = self.rows.softcap {
            soften(self.scores, cap);
        }
    }

    /// 32 positions' scores of R rows.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn score<const R: usize>(&mut self, first: usize, position: usize) {
        let head_dim = self.head.head_dim();
        let mut sums = [[_mm256_setzero_ps(); R]; VECTORS];
        // SAFETY: the buffers' shapes, see the fields; the caller's promise.
        unsafe {
            let queries = self.rows.queries.as_ptr().add(first * head_dim);
            for dim in 0..head_dim {
                let keys = self.keys.as_ptr().add(dim * TILE + position);
                let queries: [__m256; R] =
                    std::array::from_fn(|row| _mm256_set1_ps(*queries.add(row * head_dim + dim)));
                for (v, sums) in sums.iter_mut().enumerate() {
                    let keys = _mm256_loadu_ps(keys.add(v * LANES));
                    for (sum, query) in sums.iter_mut().zip(queries) {
                        *sum = _mm256_fmadd_ps(query, keys, *sum);
                    }
                }
            }
            for (v, sums) in sums.iter().enumerate() {
                for (row, sum) in sums.iter().enumerate() {
                    let scores = self.scores.as_mut_ptr().add((first + row) * TILE + position);
                    _mm256_storeu_ps(scores.add(v * LANES), *sum);
                }
            }
        }
    }

    /// Scores become weights `e^(score - maximum)`; what was summed under a smaller maximum is scaled down. Plain loops,
    /// which the compiler vectorizes: all they need is the features.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn weigh_rows(&mut self, partial: &mut Partial<'_>) {
        let head_dim = self.head.head_dim();
        for (row, visible) in self.rows.visible.iter().enumerate() {
            let visible = visible.within(self.start, self.length);
            let scores = &mut self.scores[row * TILE..(row + 1) * TILE];
            scores[..visible.start].fill(f32::NEG_INFINITY);
            scores[visible.end..].fill(f32::NEG_INFINITY);
            if visible.is_empty() {
                scores.fill(0.0);
                continue;
            }
            let sums = &mut self.sums[row * LANES..(row + 1) * LANES];
            let maximum = largest(scores).max(partial.maximum[row]);
            if maximum > partial.maximum[row] {
                let keep = (partial.maximum[row] - maximum).exp();
                let weighted = &mut partial.weighted[row * head_dim..(row + 1) * head_dim];
                for value in sums.iter_mut().chain(weighted) {
                    *value *= keep;
                }
                partial.maximum[row] = maximum;
            }
            for score in scores.iter_mut() {
                *score = exp(*score - maximum);
            }
            // `exp` ends at e^-87, which is not nothing.
            scores[..visible.start].fill(0.0);
            scores[visible.end..].fill(0.0);
            for weights in scores.chunks_exact(LANES) {
                sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sum_values(&self, weighted: &mut [f32]) {
        let num_rows = self.rows.visible.len();
        for first in (0..num_rows).step_by(REGISTER_ROWS) {
            // SAFETY: the rows first to first + R exist.
            unsafe {
                match num_rows - first {
                    1 => self.sum_columns::<1>(first, weighted),
                    2 => self.sum_columns::<2>(first, weighted),
                    _ => self.sum_columns::<REGISTER_ROWS>(first, weighted),
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sum_columns<const R: usize>(&self, first: usize, weighted: &mut [f32]) {
        let head_dim = self.head.head_dim();
        let wide = head_dim / (VECTORS * LANES) * (VECTORS * LANES);
        // SAFETY: columns dim to dim + 32 (8) are inside head_dim.
        unsafe {
            for dim in (0..wide).step_by(VECTORS * LANES) {
                self.sum::<R, VECTORS>(first, dim, weighted);
            }
            for dim in (wide..head_dim).step_by(LANES) {
                self.sum::<R, 1>(first, dim, weighted);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sum<const R: usize, const V: usize>(&self, first: usize, dim: usize, weighted: &mut [f32]) {
        let head_dim = self.head.head_dim();
        // SAFETY: `weighted` is [rows][head_dim], `scores` [rows][TILE]; offset + head_dim is inside the cache.
        unsafe {
            let out = weighted.as_mut_ptr().add(first * head_dim + dim);
            let weights = self.scores.as_ptr().add(first * TILE);
            let values = self.head.values().as_ptr().add(dim);
            let mut sums: [[__m256; R]; V] = std::array::from_fn(|v| {
                std::array::from_fn(|row| _mm256_loadu_ps(out.add(row * head_dim + v * LANES)))
            });
            for (position, offset) in self.offsets[..self.length].iter().enumerate() {
                let weights: [__m256; R] =
                    std::array::from_fn(|row| _mm256_set1_ps(*weights.add(row * TILE + position)));
                for (v, sums) in sums.iter_mut().enumerate() {
                    let values = load(values.add(offset + v * LANES));
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = _mm256_fmadd_ps(weight, values, *sum);
                    }
                }
            }
            for (v, sums) in sums.iter().enumerate() {
                for (row, sum) in sums.iter().enumerate() {
                    _mm256_storeu_ps(out.add(row * head_dim + v * LANES), *sum);
                }
            }
        }
    }
}

/// The largest of a row's scores.
#[inline(always)]
fn largest(scores: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for scores in scores.chunks_exact(LANES) {
        for (lane, score) in lanes.iter_mut().zip(scores) {
            *lane = if *score > *lane { *score } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// 8 elements as float32.
///
/// # Safety
/// `from` points to 8 readable elements.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load<C: Float>(from: *const C) -> __m256 {
    // SAFETY: the caller's promise; KIND tells the element's type.
    unsafe {
        match C::KIND {
            FloatKind::F32 => _mm256_loadu_ps(from.cast()),
            FloatKind::F16 => _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            FloatKind::Bf16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
    }
}

/// Turns 8 rows of 8 floats into 8 columns.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = rows;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = rows;
    for i in 0..2 {
        let [a, b, c, d] = [pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]];
        fours[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
        fours[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
        fours[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
        fours[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
    }
    let mut columns = rows;
    for i in 0..4 {
        columns[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[4 + i]);
        columns[4 + i] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[4 + i]);
    }
    columns
}
