//! The quantized product in plain Rust. Integer sums equal those of the vector kernels; float sums differ by rounding.

use crate::quantized_linear::{ActivationTile, BLOCK, BlockType, GROUP, PLANES_BYTES, TileSums, scale_and_minimum};

pub(crate) fn multiply_tile(block_type: BlockType, group: &[u8], tile: &ActivationTile<'_>, sums: &mut TileSums) {
    let mut totals: TileSums = Default::default();
    let mut weights = [[0i16; 2 * GROUP]; BLOCK / 2];
    for (block, bytes) in group.chunks_exact(block_type.packed_bytes()).enumerate() {
        let (packed, scales) = bytes.split_at(block_type.weight_bytes());
        unpack(packed, block_type, &mut weights);
        let (mut d, mut m) = ([0.0; GROUP], [0.0; GROUP]);
        for lane in 0..GROUP {
            (d[lane], m[lane]) = scale_and_minimum(scales, lane, block_type);
        }
        for (row, total) in totals[..tile.num_rows].iter_mut().enumerate() {
            let at = block * tile.num_rows + row;
            let dots = dot(&weights, &join(&tile.planes[at * PLANES_BYTES..(at + 1) * PLANES_BYTES]));
            let offset = block_type.offset() * tile.sums[at];
            for lane in 0..GROUP {
                total[lane] += (dots[lane] - offset) as f32 * (d[lane] * tile.scales[at]);
                total[lane] += m[lane] * tile.scaled_sums[at];
            }
        }
    }
    *sums = totals;
}

/// To `[pair of columns][lane][2]`: two products and their sum are one instruction on most machines.
#[inline(always)]
fn unpack(packed: &[u8], block_type: BlockType, weights: &mut [[i16; 2 * GROUP]; BLOCK / 2]) {
    for (line, bytes) in packed.chunks_exact(64).enumerate() {
        for lane in 0..GROUP {
            for i in 0..4 {
                let byte = bytes[4 * lane + i];
                let (pair, slot) = (line * 2 + i / 2, 2 * lane + i % 2);
                if block_type == BlockType::Q8_0 {
                    weights[pair][slot] = i16::from(byte);
                } else {
                    weights[pair][slot] = i16::from(byte & 15);
                    weights[pair + 8][slot] = i16::from(byte >> 4);
                }
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
fn dot(weights: &[[i16; 2 * GROUP]; BLOCK / 2], x: &[i16; BLOCK]) -> [i32; GROUP] {
    let mut dots = [0i32; GROUP];
    for (weights, x) in weights.iter().zip(x.chunks_exact(2)) {
        let (first, second) = (i32::from(x[0]), i32::from(x[1]));
        for lane in 0..GROUP {
            dots[lane] += i32::from(weights[2 * lane]) * first + i32::from(weights[2 * lane + 1]) * second;
        }
    }
    dots
}
