//! Activations as 16-bit integers: quantized once a call, laid out in the tiles that the kernels walk.
//!
//! Where bytes are multiplied (AVX-512) they lie in two planes: `x = scale * (256 * high + low)` with both bytes signed.
//! One plane alone (8 bits) moves the best token of 4.5% of the positions of a `Q4_1` model off that of float32; both
//! move it in none that was tried, at twice the dot products. Elsewhere they are words, of which two meet two quants.

use super::{BLOCK, MAX_TILE_ROWS};
use crate::threads::SharedOutput;
use crate::{Float, InstructionSet, Rows, simd};
use std::cell::RefCell;
use std::ops::Range;

/// The quantized values of a block, in either layout.
pub(crate) const VALUES_BYTES: usize = 2 * BLOCK;
/// Where the words of four columns lie: a word of packed quants yields its even and its odd bytes, each two quants of 16
/// bits, so that the even columns come before the odd ones.
pub(crate) const WORD_OF_COLUMN: [usize; 4] = [0, 2, 1, 3];
/// What the largest magnitude of a block becomes: 127 in the high plane and 0 in the low one.
pub(crate) const LARGEST: f32 = 127.0 * 256.0;

/// Buffers for quantized rows, kept from call to call: fresh large ones would cost a page fault for every 4 KiB.
#[derive(Debug, Default)]
pub(crate) struct ActivationBuffers {
    values: Vec<i8>,
    scales: Vec<f32>,
    scaled_sums: Vec<f32>,
    sums: Vec<[i32; 2]>,
}

impl ActivationBuffers {
    /// Room for so many rows, whose contents are anything yet.
    pub(crate) fn rows(&mut self, num_rows: usize, num_columns: usize) -> QuantizedActivations<'_> {
        let num_blocks = num_columns / BLOCK;
        self.resize(num_rows * num_blocks);
        QuantizedActivations {
            num_rows,
            num_blocks,
            values: SharedOutput::new(&mut self.values),
            scales: SharedOutput::new(&mut self.scales),
            scaled_sums: SharedOutput::new(&mut self.scaled_sums),
            sums: SharedOutput::new(&mut self.sums),
        }
    }

    /// Room for several groups of so many rows each.
    pub(crate) fn parts(&mut self, counts: &[usize], num_columns: usize) -> Vec<QuantizedActivations<'_>> {
        let num_blocks = num_columns / BLOCK;
        self.resize(counts.iter().sum::<usize>() * num_blocks);
        let Self { values, scales, scaled_sums, sums } = self;
        let (mut values, mut scales) = (values.as_mut_slice(), scales.as_mut_slice());
        let (mut scaled_sums, mut sums) = (scaled_sums.as_mut_slice(), sums.as_mut_slice());
        let parts = counts.iter().map(|&num_rows| {
            let length = num_rows * num_blocks;
            QuantizedActivations {
                num_rows,
                num_blocks,
                values: SharedOutput::new(take(&mut values, length * VALUES_BYTES)),
                scales: SharedOutput::new(take(&mut scales, length)),
                scaled_sums: SharedOutput::new(take(&mut scaled_sums, length)),
                sums: SharedOutput::new(take(&mut sums, length)),
            }
        });
        parts.collect()
    }

    fn resize(&mut self, total: usize) {
        self.values.resize(total * VALUES_BYTES, 0);
        self.scales.resize(total, 0.0);
        self.scaled_sums.resize(total, 0.0);
        self.sums.resize(total, [0; 2]);
    }
}

/// Cuts off the first `length` elements.
#[allow(clippy::mut_mut)] // it shortens a borrowed slice
fn take<'a, T>(slice: &mut &'a mut [T], length: usize) -> &'a mut [T] {
    let (first, rest) = std::mem::take(slice).split_at_mut(length);
    *slice = rest;
    first
}

/// Lends this thread's buffers.
pub(super) fn with_buffers(body: impl FnOnce(&mut ActivationBuffers)) {
    thread_local! {
        static BUFFERS: RefCell<ActivationBuffers> = RefCell::default();
    }
    BUFFERS.with_borrow_mut(body);
}

/// Where the rows to be quantized come from, 32 values at a time.
pub(crate) trait BlockSource {
    /// Writes block `block` of row `row`. Must be `inline(always)`, or it is compiled for the baseline.
    fn read(&self, row: usize, block: usize, values: &mut [f32; BLOCK]);
}

impl<T: Float> BlockSource for Rows<'_, T> {
    #[inline(always)]
    fn read(&self, row: usize, block: usize, values: &mut [f32; BLOCK]) {
        for (value, x) in values.iter_mut().zip(&self.row(row)[block * BLOCK..][..BLOCK]) {
            *value = x.to_f32();
        }
    }
}

/// Quantized rows, cut into tiles of 8, 4, 2 and 1 rows. Inside a tile everything is `[block][row]`.
///
/// Shared between tasks: one phase quantizes, the next reads.
#[derive(Clone, Copy)]
pub(crate) struct QuantizedActivations<'a> {
    num_rows: usize,
    num_blocks: usize,
    values: SharedOutput<'a, i8>,
    scales: SharedOutput<'a, f32>,
    scaled_sums: SharedOutput<'a, f32>,
    sums: SharedOutput<'a, [i32; 2]>,
}

/// A tile: `num_rows` is 1, 2, 4 or 8.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ActivationTile<'a> {
    /// The tile's first row in its call.
    pub(crate) first_row: usize,
    /// No tile before it meets the same weights: this pass brings them into the cache.
    pub(crate) is_first: bool,
    pub(crate) num_rows: usize,
    /// `[block][row][64]`: 32 high bytes, then 32 low ones; or 32 words, each four in the order of [`WORD_OF_COLUMN`].
    pub(crate) values: &'a [i8],
    /// `[block][row]`: what a quantized value is worth.
    pub(crate) scales: &'a [f32],
    /// `[block][row]`: scale times sum, which meets the weights' minimum.
    pub(crate) scaled_sums: &'a [f32],
    /// `[block][row]`: sums of the first and the last 16 quantized values, which meet the weights' offset.
    pub(crate) sums: &'a [[i32; 2]],
}

#[allow(unsafe_code)]
impl<'a> QuantizedActivations<'a> {
    /// The same room for as many rows of no more columns.
    pub(crate) fn of_columns(self, num_columns: usize) -> Self {
        let num_blocks = num_columns / BLOCK;
        assert!(num_blocks <= self.num_blocks, "{num_blocks} blocks in room for {}", self.num_blocks);
        Self { num_blocks, ..self }
    }

    pub(crate) fn num_rows(&self) -> usize {
        self.num_rows
    }

    pub(crate) fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    pub(crate) fn num_tiles(&self) -> usize {
        num_tiles(self.num_rows)
    }

    /// The rows of a tile.
    pub(crate) fn tile_rows(&self, tile: usize) -> Range<usize> {
        let (first_row, num_rows) = tile_rows(tile, self.num_rows);
        first_row..first_row + num_rows
    }

    /// Quantizes some blocks of a tile's rows.
    ///
    /// # Safety
    /// No other task quantizes these blocks of the tile, or reads the tile, meanwhile.
    pub(crate) unsafe fn quantize(
        &self,
        tile: usize,
        blocks: Range<usize>,
        source: &impl BlockSource,
        set: InstructionSet,
    ) {
        let (first_row, num_rows) = tile_rows(tile, self.num_rows);
        let start = first_row * self.num_blocks + blocks.start * num_rows;
        let length = blocks.len() * num_rows;
        // SAFETY: tiles are disjoint runs of rows, and these blocks lie together in theirs.
        let (values, scales, scaled_sums, sums) = unsafe {
            (
                self.values.part(start * VALUES_BYTES, length * VALUES_BYTES),
                self.scales.part(start, length),
                self.scaled_sums.part(start, length),
                self.sums.part(start, length),
            )
        };
        set.vectorize(
            #[inline(always)]
            || {
                let mut x = [0.0; BLOCK];
                for row in 0..num_rows {
                    for block in 0..blocks.len() {
                        source.read(first_row + row, blocks.start + block, &mut x);
                        let at = block * num_rows + row;
                        let values = &mut values[at * VALUES_BYTES..(at + 1) * VALUES_BYTES];
                        let (scale, halves) = simd::quantize_block(&x, values, set);
                        scales[at] = scale;
                        scaled_sums[at] = scale * (halves[0] + halves[1]) as f32;
                        sums[at] = halves;
                    }
                }
            },
        );
    }

    /// A tile that is quantized; see [`ActivationTile`] for `is_first`.
    ///
    /// # Safety
    /// No task quantizes the tile while it is in use.
    pub(crate) unsafe fn tile(&self, index: usize, is_first: bool) -> ActivationTile<'a> {
        let (first_row, num_rows) = tile_rows(index, self.num_rows);
        let (start, length) = (first_row * self.num_blocks, num_rows * self.num_blocks);
        // SAFETY: handed on from the caller.
        unsafe {
            ActivationTile {
                first_row,
                is_first,
                num_rows,
                values: self.values.read(start * VALUES_BYTES, length * VALUES_BYTES),
                scales: self.scales.read(start, length),
                scaled_sums: self.scaled_sums.read(start, length),
                sums: self.sums.read(start, length),
            }
        }
    }
}

/// How many tiles `num_rows` rows make: as many of 8 as fit, then at most one each of 4, 2 and 1.
fn num_tiles(num_rows: usize) -> usize {
    num_rows / MAX_TILE_ROWS + (num_rows % MAX_TILE_ROWS).count_ones() as usize
}

/// First row and number of rows of a tile.
fn tile_rows(index: usize, num_rows: usize) -> (usize, usize) {
    let full = num_rows / MAX_TILE_ROWS;
    if index < full {
        return (index * MAX_TILE_ROWS, MAX_TILE_ROWS);
    }
    let mut rest = num_rows % MAX_TILE_ROWS;
    let mut first_row = full * MAX_TILE_ROWS;
    for _ in full..index {
        let largest = 1 << rest.ilog2();
        first_row += largest;
        rest -= largest;
    }
    (first_row, 1 << rest.ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_rows_in_order_without_a_gap() {
        for num_rows in 0..40 {
            let mut next = 0;
            for index in 0..num_tiles(num_rows) {
                let (first, count) = tile_rows(index, num_rows);
                assert_eq!(first, next);
                assert!([1, 2, 4, 8].contains(&count));
                next += count;
            }
            assert_eq!(next, num_rows);
        }
    }

    /// Quantizes with every set: scales, sums and values, joined and in the order of columns, must be the same.
    fn quantize(x: &[f32; BLOCK]) -> (f32, [i32; 2], [i32; BLOCK]) {
        let mut all = InstructionSet::available().into_iter().map(|set| {
            let mut bytes = [1i8; VALUES_BYTES];
            let (scale, sums) = simd::quantize_block(x, &mut bytes, set);
            let values = std::array::from_fn(|column| {
                if set.is_avx512() {
                    return 256 * i32::from(bytes[column]) + i32::from(bytes[BLOCK + column]);
                }
                let at = 2 * (column / 4 * 4 + WORD_OF_COLUMN[column % 4]);
                i32::from(i16::from_ne_bytes([bytes[at] as u8, bytes[at + 1] as u8]))
            });
            (scale, sums, values)
        });
        let first = all.next().unwrap();
        assert!(all.all(|other| other == first || first.0.is_nan() && other.0.is_nan()));
        first
    }

    #[test]
    fn halves_round_to_even_and_the_largest_magnitude_is_exact() {
        let mut x = [0.0f32; BLOCK];
        (x[0], x[1], x[2], x[3], x[4], x[20]) = (-32512.0, 0.5, 1.5, -128.5, 32511.0, 7.0);
        let (scale, sums, values) = quantize(&x);
        assert_eq!((scale, sums), (1.0, [-32512 + 2 - 128 + 32511, 7]));
        assert_eq!(&values[..5], &[-32512, 0, 2, -128, 32511]);
        assert_eq!(values[20], 7);
    }

    #[test]
    fn a_nan_survives_into_the_scale_and_zeros_have_scale_zero() {
        let mut x = [0.0f32; BLOCK];
        assert_eq!(quantize(&x), (0.0, [0; 2], [0; BLOCK]));
        x[7] = f32::NAN;
        assert!(quantize(&x).0.is_nan());
    }

    #[test]
    fn every_set_quantizes_to_the_same_values() {
        for seed in 0..100u32 {
            let noise = |i: usize| (seed * 31 + i as u32).wrapping_mul(2_654_435_761) >> 8;
            quantize(&std::array::from_fn(|i| noise(i) as f32 / (1 << 23) as f32 - 1.0));
        }
    }
}
