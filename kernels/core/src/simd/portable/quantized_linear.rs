//! The quantized product in plain Rust. Integer sums equal those of the vector kernels; float sums differ by rounding.
//!
//! Loops run over the 16 lanes, with some work for each, and know their format at compile time: the compiler makes whole
//! registers of them. (It unrolls loops over lanes that do little first, and then finds the registers only in part.)

use crate::elementary::ROUNDING;
use crate::quantized_linear::{
    ActivationTile, BLOCK, BlockType, GROUP, Group, LARGEST, TileSums, VALUES_BYTES, WORD_OF_COLUMN, with_block_type,
};

const HALF: usize = BLOCK / 2;
/// Fours of columns in half a block.
const HALF_FOURS: usize = HALF / 4;

/// `[four of columns][lane]`: what the activations multiply, lowest column in the low byte.
type Quants = [[u32; GROUP]; BLOCK / 4];

pub(crate) fn multiply_tile(group: &Group<'_>, tile: &ActivationTile<'_>, sums: &mut TileSums) {
    with_block_type!(group.block_type, TYPE => match tile.num_rows {
        1 => multiply::<1, TYPE>(group, tile, sums),
        _ => multiply::<2, TYPE>(group, tile, sums),
    });
}

/// All rows of the tile, `ROWS` at a time: their accumulators are what registers hold.
#[inline(always)]
fn multiply<const ROWS: usize, const TYPE: usize>(group: &Group<'_>, tile: &ActivationTile<'_>, sums: &mut TileSums) {
    let format = const { BlockType::ALL[TYPE].format() };
    let mut totals: TileSums = Default::default();
    let mut quants: Quants = Default::default();
    for index in 0..group.num_columns / BLOCK {
        let block = group.block(&format, index);
        let (mut scales, mut minimums) = ([[0.0; GROUP]; 2], [[0.0; GROUP]; 2]);
        block.unpack(&format, &mut quants);
        for lane in 0..GROUP {
            for half in 0..2 {
                (scales[half][lane], minimums[half][lane]) = block.scale_and_minimum(&format, lane, half);
            }
        }
        for (step, totals) in totals[..tile.num_rows].chunks_exact_mut(ROWS).enumerate() {
            let at = index * tile.num_rows + step * ROWS;
            let words = &tile.values[at * VALUES_BYTES..(at + ROWS) * VALUES_BYTES];
            let x: [_; ROWS] = std::array::from_fn(|row| columns(&words[row * VALUES_BYTES..(row + 1) * VALUES_BYTES]));
            for (half, quants) in quants.chunks_exact(HALF_FOURS).enumerate() {
                let mut dots: [_; ROWS] =
                    std::array::from_fn(|row| [-format.offset * tile.sums[at + row][half]; GROUP]);
                for (four, quants) in quants.iter().enumerate() {
                    add_products(&mut dots, quants, &x, half * HALF + 4 * four);
                }
                for (row, (total, dots)) in totals.iter_mut().zip(&dots).enumerate() {
                    let x_scale = tile.scales[at + row];
                    let scaled_sum = x_scale * tile.sums[at + row][half] as f32;
                    for lane in 0..GROUP {
                        total[lane] += dots[lane] as f32 * (scales[half][lane] * x_scale);
                        if format.scales.have_minimum() {
                            total[lane] += minimums[half][lane] * scaled_sum;
                        }
                    }
                }
            }
        }
    }
    *sums = totals;
}

/// The words of a block in the order of its columns.
#[inline(always)]
fn columns(words: &[i8]) -> [i16; BLOCK] {
    std::array::from_fn(|column| {
        let at = 2 * (column / 4 * 4 + WORD_OF_COLUMN[column % 4]);
        i16::from_ne_bytes([words[at] as u8, words[at + 1] as u8])
    })
}

/// Adds the products of the four columns from `column` on. Four at a time, the compiler keeps sight of both factors
/// having 16 bits, for which there is a fast multiplication; it unrolls more of them into worse code.
#[inline(always)]
fn add_products<const ROWS: usize>(
    dots: &mut [[i32; GROUP]; ROWS],
    quants: &[u32; GROUP],
    x: &[[i16; BLOCK]; ROWS],
    column: usize,
) {
    for lane in 0..GROUP {
        let quants: [_; 4] = std::array::from_fn(|i| (quants[lane] >> (8 * i) & 0xff) as i32);
        for (dots, x) in dots.iter_mut().zip(x) {
            for (quant, x) in quants.iter().zip(&x[column..column + 4]) {
                dots[lane] += quant * i32::from(*x);
            }
        }
    }
}

/// Quantizes 32 values to `[-32512, 32512]`, as words; returns the scale (amax / 32512) and the sums of the first and the
/// last 16 quantized values.
#[inline(always)]
pub(crate) fn quantize_block(x: &[f32; BLOCK], words: &mut [i8]) -> (f32, [i32; 2]) {
    // Magnitudes order like their bits, and a NaN's bits are above all: it survives into the scale.
    let amax = f32::from_bits(x.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff)));
    let inverse = if amax > 0.0 { LARGEST / amax } else { 0.0 };
    let mut quantized = [0i16; BLOCK];
    let mut sums = [0i32; 2];
    let halves = quantized.chunks_exact_mut(HALF).zip(x.chunks_exact(HALF));
    for ((quantized, x), sum) in halves.zip(&mut sums) {
        for (quantized, x) in quantized.iter_mut().zip(x) {
            *quantized = (x * inverse + ROUNDING).to_bits().wrapping_sub(ROUNDING.to_bits()) as i16;
            *sum += i32::from(*quantized);
        }
    }
    for (quantized, words) in quantized.chunks_exact(4).zip(words.chunks_exact_mut(8)) {
        for (quantized, word) in quantized.iter().zip(WORD_OF_COLUMN) {
            let [first, second] = quantized.to_ne_bytes();
            (words[2 * word], words[2 * word + 1]) = (first as i8, second as i8);
        }
    }
    (amax / LARGEST, sums)
}
