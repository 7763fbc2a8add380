//! Attention with 512-bit vectors: 64 positions a tile, up to 6 rows of queries in registers at a time.
//!
//! Keys of a tile are transposed to `[head_dim][64]` once for all rows. A score then sums over `head_dim` in order, and
//! an output over positions in order, however many rows share the pass: rows stay bit-equal in any company.

use super::math;
use crate::paged_attention::{HeadCache, Partial, QueryRows, TILE, soften};
use crate::simd::attention_tile::{Tile, for_each_tile};
use crate::{Float, FloatKind, InstructionSet};
#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;
use std::ops::Range;

const LANES: usize = 16;
/// Vectors of a tile's positions, or of the output's columns that are summed at once.
const VECTORS: usize = TILE / LANES;
/// Rows whose sums are held in registers: 6 x 4 of the 32.
const REGISTER_ROWS: usize = 6;

/// Whose steps the tiles here are made for.
struct Avx512;

pub(crate) fn attend<C: Float>(
    set: InstructionSet,
    head: &HeadCache<'_, C>,
    positions: Range<usize>,
    rows: &QueryRows<'_>,
    scratch: &mut Vec<f32>,
    partial: &mut Partial<'_>,
) {
    assert!(set.is_avx512());
    for_each_tile(head, positions, rows, (scratch, LANES), partial, |tile: &mut Tile<'_, C, Avx512>, partial| {
        // SAFETY: `set` proves the features; buffer lengths and offsets are asserted by `for_each_tile`.
        unsafe {
            tile.transpose_keys();
            tile.score_rows();
            tile.soften_scores();
            tile.weigh_rows(partial);
            tile.sum_values(partial.weighted);
        }
    });
}

impl<C: Float> Tile<'_, C, Avx512> {
    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    unsafe fn transpose_keys(&mut self) {
        let head_dim = self.head.head_dim();
        // Two half-precision elements are one 32-bit element to the shuffles: half as many of them.
        let paired = if C::KIND == FloatKind::F32 { 0 } else { head_dim / (2 * LANES) * (2 * LANES) };
        for first in (0..self.length).step_by(LANES) {
            // SAFETY: offset + head_dim is inside the cache, and so is what lies before dim + 16 (32) <= head_dim.
            unsafe {
                for dim in (0..paired).step_by(2 * LANES) {
                    self.transpose_pairs(first, dim);
                }
                for dim in (paired..head_dim).step_by(LANES) {
                    self.transpose_singles(first, dim);
                }
            }
        }
    }

    /// 16 dimensions of 16 positions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    unsafe fn transpose_singles(&mut self, first: usize, dim: usize) {
        // SAFETY: the caller's promise for the loads; `keys` is [head_dim][TILE] and first + 16 <= TILE.
        unsafe {
            let from = self.head.keys().as_ptr().add(dim);
            let offsets = &*self.offsets.as_ptr().add(first).cast::<[usize; LANES]>();
            // Not `map`: its calls are not inlined.
            let mut rows = [_mm512_setzero_ps(); LANES];
            for (row, offset) in rows.iter_mut().zip(offsets) {
                *row = load(from.add(*offset));
            }
            let to = self.keys.as_mut_ptr().add(dim * TILE + first);
            for (i, column) in math::transpose(&rows).into_iter().enumerate() {
                _mm512_storeu_ps(to.add(i * TILE), column);
            }
        }
    }

    /// 32 dimensions of 16 positions, of a half-precision cache.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    unsafe fn transpose_pairs(&mut self, first: usize, dim: usize) {
        // SAFETY: as in `transpose_singles`; a half-precision element has 2 bytes, so a load is 32 of them.
        unsafe {
            let from = self.head.keys().as_ptr().add(dim);
            let offsets = &*self.offsets.as_ptr().add(first).cast::<[usize; LANES]>();
            // Not `map`: its calls are not inlined.
            let mut rows = [_mm512_setzero_ps(); LANES];
            for (row, offset) in rows.iter_mut().zip(offsets) {
                *row = _mm512_loadu_ps(from.add(*offset).cast());
            }
            let to = self.keys.as_mut_ptr().add(dim * TILE + first);
            for (i, pairs) in math::transpose(&rows).into_iter().enumerate() {
                let (even, odd) = widen_pairs::<C>(pairs);
                _mm512_storeu_ps(to.add(2 * i * TILE), even);
                _mm512_storeu_ps(to.add((2 * i + 1) * TILE), odd);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    unsafe fn score_rows(&mut self) {
        let num_rows = self.rows.visible.len();
        for first in (0..num_rows).step_by(REGISTER_ROWS) {
            // SAFETY: the rows first to first + R exist.
            unsafe {
                match num_rows - first {
                    1 => self.score::<1>(first),
                    2 => self.score::<2>(first),
                    3 => self.score::<3>(first),
                    4 => self.score::<4>(first),
                    5 => self.score::<5>(first),
                    _ => self.score::<REGISTER_ROWS>(first),
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    unsafe fn score<const R: usize>(&mut self, first: usize) {
        let head_dim = self.head.head_dim();
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; R];
        // SAFETY: the buffers' shapes, see the fields; rows first to first + R exist.
        unsafe {
            let queries = self.rows.queries.as_ptr().add(first * head_dim);
            for dim in 0..head_dim {
                let keys = self.keys.as_ptr().add(dim * TILE);
                let keys: [__m512; VECTORS] = std::array::from_fn(|v| _mm512_loadu_ps(keys.add(v * LANES)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let query = _mm512_set1_ps(*queries.add(row * head_dim + dim));
                    for (sum, keys) in sums.iter_mut().zip(keys) {
                        *sum = _mm512_fmadd_ps(query, keys, *sum);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(self.scores.as_mut_ptr().add((first + row) * TILE + v * LANES), *sum);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    fn soften_scores(&mut self) {
        if let Some(cap) = self.rows.softcap {
            soften(self.scores, cap);
        }
    }

    /// Scores become weights `e^(score - maximum)`; what was summed under a smaller maximum is scaled down.
    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    unsafe fn weigh_rows(&mut self, partial: &mut Partial<'_>) {
        let head_dim = self.head.head_dim();
        for (row, visible) in self.rows.visible.iter().enumerate() {
            let visible = visible.within(self.start, self.length);
            let below = |end: usize| if end == TILE { u64::MAX } else { (1 << end) - 1 };
            let mask = below(visible.end) & !below(visible.start);
            let masks: [__mmask16; VECTORS] = std::array::from_fn(|v| (mask >> (v * LANES)) as __mmask16);
            // SAFETY: `scores` is [rows][TILE], `sums` [rows][16], `weighted` [rows][head_dim].
            unsafe {
                let scores = self.scores.as_mut_ptr().add(row * TILE);
                if visible.is_empty() {
                    self.scores[row * TILE..(row + 1) * TILE].fill(0.0);
                    continue;
                }
                let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
                for (v, mask) in masks.iter().enumerate() {
                    let scores = _mm512_loadu_ps(scores.add(v * LANES));
                    largest = _mm512_mask_max_ps(largest, *mask, largest, scores);
                }
                let maximum = partial.maximum[row].max(_mm512_reduce_max_ps(largest));
                let sums = self.sums.as_mut_ptr().add(row * LANES);
                let mut sum = _mm512_loadu_ps(sums);
                if maximum > partial.maximum[row] {
                    let keep = math::exp(_mm512_set1_ps(partial.maximum[row] - maximum));
                    sum = _mm512_mul_ps(sum, keep);
                    for dim in (0..head_dim).step_by(LANES) {
                        let weighted = partial.weighted.as_mut_ptr().add(row * head_dim + dim);
                        _mm512_storeu_ps(weighted, _mm512_mul_ps(_mm512_loadu_ps(weighted), keep));
                    }
                    partial.maximum[row] = maximum;
                }
                for (v, mask) in masks.iter().enumerate() {
                    let score = _mm512_sub_ps(_mm512_loadu_ps(scores.add(v * LANES)), _mm512_set1_ps(maximum));
                    let weight = _mm512_maskz_mov_ps(*mask, math::exp(score));
                    _mm512_storeu_ps(scores.add(v * LANES), weight);
                    sum = _mm512_add_ps(sum, weight);
                }
                _mm512_storeu_ps(sums, sum);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    unsafe fn sum_values(&self, weighted: &mut [f32]) {
        let num_rows = self.rows.visible.len();
        for first in (0..num_rows).step_by(REGISTER_ROWS) {
            // SAFETY: the rows first to first + R exist.
            unsafe {
                match num_rows - first {
                    1 => self.sum_columns::<1>(first, weighted),
                    2 => self.sum_columns::<2>(first, weighted),
                    3 => self.sum_columns::<3>(first, weighted),
                    4 => self.sum_columns::<4>(first, weighted),
                    5 => self.sum_columns::<5>(first, weighted),
                    _ => self.sum_columns::<REGISTER_ROWS>(first, weighted),
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    unsafe fn sum_columns<const R: usize>(&self, first: usize, weighted: &mut [f32]) {
        let head_dim = self.head.head_dim();
        let wide = head_dim / TILE * TILE;
        // SAFETY: columns dim to dim + 64 (16) are inside head_dim.
        unsafe {
            for dim in (0..wide).step_by(TILE) {
                self.sum::<R, VECTORS>(first, dim, weighted);
            }
            for dim in (wide..head_dim).step_by(LANES) {
                self.sum::<R, 1>(first, dim, weighted);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    unsafe fn sum<const R: usize, const V: usize>(&self, first: usize, dim: usize, weighted: &mut [f32]) {
        let head_dim = self.head.head_dim();
        // SAFETY: `weighted` is [rows][head_dim], `scores` [rows][TILE]; offset + head_dim is inside the cache.
        unsafe {
            let out = weighted.as_mut_ptr().add(first * head_dim + dim);
            let weights = self.scores.as_ptr().add(first * TILE);
            let values = self.head.values().as_ptr().add(dim);
            let mut sums: [[__m512; V]; R] = std::array::from_fn(|row| {
                std::array::from_fn(|v| _mm512_loadu_ps(out.add(row * head_dim + v * LANES)))
            });
            for (position, offset) in self.offsets[..self.length].iter().enumerate() {
                let values: [__m512; V] = std::array::from_fn(|v| load(values.add(offset + v * LANES)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let weight = _mm512_set1_ps(*weights.add(row * TILE + position));
                    for (sum, values) in sums.iter_mut().zip(values) {
                        *sum = _mm512_fmadd_ps(weight, values, *sum);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(out.add(row * head_dim + v * LANES), *sum);
                }
            }
        }
    }
}

/// 16 elements as float32.
///
/// # Safety
/// `from` points to 16 readable elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn load<C: Float>(from: *const C) -> __m512 {
    // SAFETY: the caller's promise; KIND tells the element's type.
    unsafe {
        match C::KIND {
            FloatKind::F32 => _mm512_loadu_ps(from.cast()),
            FloatKind::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
            FloatKind::Bf16 => {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
    }
}

/// The low and the high halves of 16 pairs of half-precision elements, as float32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,f16c")]
fn widen_pairs<C: Float>(pairs: __m512) -> (__m512, __m512) {
    let pairs = _mm512_castps_si512(pairs);
    let (low, high) = (_mm512_slli_epi32::<16>(pairs), _mm512_srli_epi32::<16>(pairs));
    if C::KIND == FloatKind::Bf16 {
        return (_mm512_castsi512_ps(low), _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high)));
    }
    (_mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs)), _mm512_cvtph_ps(_mm512_cvtepi32_epi16(high)))
}
