//! The quantized product in plain Rust. Integer sums equal those of the vector kernels; float sums differ by rounding.

use crate::quantized_linear::{ActivationTile, BLOCK, Format, GROUP, Group, PLANES_BYTES, TileSums};

const HALF: usize = BLOCK / 2;

/// `[column][lane]`: what the activations multiply.
type Quants = [[i16; GROUP]; BLOCK];

pub(crate) fn multiply_tile(group: &Group<'_>, tile: &ActivationTile<'_>, sums: &mut TileSums) {
    let format = group.block_type.format();
    let mut totals: TileSums = Default::default();
    let mut quants: Quants = [[0; GROUP]; BLOCK];
    for index in 0..group.num_columns / BLOCK {
        let block = group.block(&format, index);
        unpack(group, &format, index, &mut quants);
        let scales: [[(f32, f32); GROUP]; 2] =
            std::array::from_fn(|half| std::array::from_fn(|lane| block.scale_and_minimum(&format, lane, half)));
        for (row, total) in totals[..tile.num_rows].iter_mut().enumerate() {
            let at = index * tile.num_rows + row;
            let x = join(&tile.planes[at * PLANES_BYTES..(at + 1) * PLANES_BYTES]);
            let halves = quants.chunks_exact(HALF).zip(x.chunks_exact(HALF));
            for (half, (quants, x)) in halves.enumerate() {
                let dots = dot(quants, x);
                let sum = tile.sums[at][half];
                let scaled_sum = tile.scales[at] * sum as f32;
                for lane in 0..GROUP {
                    let (scale, minimum) = scales[half][lane];
                    total[lane] += (dots[lane] - format.offset * sum) as f32 * (scale * tile.scales[at]);
                    total[lane] += minimum * scaled_sum;
                }
            }
        }
    }
    *sums = totals;
}

#[inline(always)]
fn unpack(group: &Group<'_>, format: &Format, index: usize, quants: &mut Quants) {
    let block = group.block(format, index);
    for (four, columns) in quants.chunks_exact_mut(4).enumerate() {
        for lane in 0..GROUP {
            let bytes = block.four(format, lane, four).to_le_bytes();
            for (column, byte) in columns.iter_mut().zip(bytes) {
                column[lane] = i16::from(byte);
            }
        }
    }
}

/// The two planes of a block as whole values.
#[inline(always)]
fn join(planes: &[i8]) -> [i16; BLOCK] {
    let (high, low) = planes.split_at(BLOCK);
    std::array::from_fn(|i| i16::from(high[i]) * 256 + i16::from(low[i]))
}

#[inline(always)]
fn dot(quants: &[[i16; GROUP]], x: &[i16]) -> [i32; GROUP] {
    let mut dots = [0i32; GROUP];
    for (quants, x) in quants.iter().zip(x) {
        for lane in 0..GROUP {
            dots[lane] += i32::from(quants[lane]) * i32::from(*x);
        }
    }
    dots
}
