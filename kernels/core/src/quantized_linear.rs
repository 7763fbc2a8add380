//! Matrix products with weights of 2 to 8 bits: 16-bit activations, integer dot products a block of 32 (or its halves),
//! float32 sums.
//!
//! A weight is `scale * (q - offset) + minimum` with unsigned `q` of a byte at most, so that one instruction (u8 times
//! s8, summed by fours) serves all formats. The sum over K runs block by block in one fixed order, whatever the number of rows: a row's result is
//! bit-equal alone and in a batch. The activations of a row are quantized by blocks of 32 as well, to 16 bits in two
//! planes of bytes, each of which meets the weights in a dot product of its own.

mod activations;
mod block_type;
mod packing;

pub(crate) use activations::{ActivationTile, PLANES_BYTES};
pub use block_type::BlockType;
pub(crate) use block_type::{Format, Scales, TABLE, with_block_type};
pub(crate) use packing::Group;
pub use packing::{PackedWeight, Segment};

use crate::threads::{SharedOutput, parallel_for, run_length, threads_for};
use crate::{Float, InstructionSet, KernelError, Rows, simd};
use activations::{QuantizedActivations, with_scratch};
use std::ops::Range;

/// Columns that share a scale.
pub(crate) const BLOCK: usize = 32;
/// Weight rows that are interleaved: the float32 lanes of a 64-byte vector.
pub(crate) const GROUP: usize = 16;
/// Most activation rows that one pass over a group's weights serves.
pub(crate) const MAX_TILE_ROWS: usize = 8;
/// A panel of quantized activations must stay in the second-level cache while the weights stream by.
const MAX_PANEL_BYTES: usize = 512 * 1024;

/// Sums of one tile: `[activation row][weight row of the group]`.
pub(crate) type TileSums = [[f32; GROUP]; MAX_TILE_ROWS];

/// Multiplies each row of `x` with the weight: `out[t, n] = sum over k of x[t, k] * weight[n, k]`.
///
/// `x` has rows of `num_columns` values, `out` is contiguous `[x.num_rows(), num_rows]` and wholly overwritten.
/// A row with NaN or infinity yields NaN.
pub fn quantized_linear<T: Float>(
    x: Rows<'_, T>,
    weight: &PackedWeight,
    out: &mut [f32],
    set: InstructionSet,
) -> Result<(), KernelError> {
    check_row_length("x", weight.num_columns(), x.row_length())?;
    check_count("out", x.num_rows() * weight.num_rows(), out.len())?;
    let panel_rows = (MAX_PANEL_BYTES * BLOCK / PLANES_BYTES / weight.num_columns()).max(MAX_TILE_ROWS) / MAX_TILE_ROWS
        * MAX_TILE_ROWS;
    let out = SharedOutput::new(out);
    for start in (0..x.num_rows()).step_by(panel_rows) {
        let rows = start..x.num_rows().min(start + panel_rows);
        with_scratch(|scratch| {
            scratch.quantize(x, rows.clone(), set);
            multiply_panel(scratch, rows.start, weight, out, set);
        });
    }
    Ok(())
}

fn multiply_panel(
    x: &QuantizedActivations,
    first_row: usize,
    weight: &PackedWeight,
    out: SharedOutput<'_, f32>,
    set: InstructionSet,
) {
    // One thread streams about 16 bytes of weights a nanosecond, or multiplies about 128 pairs.
    let pairs = x.num_rows() * weight.num_columns() * weight.num_rows();
    let num_threads = threads_for((weight.num_bytes() / 16).max(pairs / 128));
    let length = run_length(weight.num_groups(), num_threads);
    parallel_for(num_threads, weight.num_groups().div_ceil(length), |task| {
        let groups = task * length..weight.num_groups().min((task + 1) * length);
        multiply_groups(x, first_row, weight, groups, out, set);
    });
}

/// All rows of the panel against some groups: a group's weights stay in the first-level cache from tile to tile.
fn multiply_groups(
    x: &QuantizedActivations,
    first_row: usize,
    weight: &PackedWeight,
    groups: Range<usize>,
    out: SharedOutput<'_, f32>,
    set: InstructionSet,
) {
    let mut sums: TileSums = [[0.0; GROUP]; MAX_TILE_ROWS];
    for index in groups {
        let group = weight.group(index);
        for tile in x.tiles() {
            simd::multiply_tile(&group, &tile, &mut sums, set);
            for (row, sums) in sums[..tile.num_rows].iter().enumerate() {
                let start = (first_row + tile.first_row + row) * weight.num_rows() + group.rows.start;
                store(out, start, &sums[..group.rows.len()]);
            }
        }
    }
}

#[inline]
#[allow(unsafe_code)]
fn store(out: SharedOutput<'_, f32>, start: usize, values: &[f32]) {
    // SAFETY: each task owns the columns of its groups, in every row; groups do not share columns.
    unsafe { out.part(start, values.len()) }.copy_from_slice(values);
}

/// Writes the weight's values, `[num_rows, num_columns]` in `out`; exactly what the file's format defines.
pub fn dequantize(weight: &PackedWeight, out: &mut [f32]) -> Result<(), KernelError> {
    check_count("out", weight.num_rows() * weight.num_columns(), out.len())?;
    for (row, out) in out.chunks_exact_mut(weight.num_columns()).enumerate() {
        weight.dequantize_row(row, out);
    }
    Ok(())
}

/// Gathers and dequantizes rows: `out[t] = weight[ids[t]]`, `out` contiguous `[ids.len(), num_columns]`.
pub fn quantized_embedding(ids: &[i64], weight: &PackedWeight, out: &mut [f32]) -> Result<(), KernelError> {
    check_count("out", ids.len() * weight.num_columns(), out.len())?;
    for (at, &id) in ids.iter().enumerate() {
        if usize::try_from(id).map_or(true, |row| row >= weight.num_rows()) {
            return Err(KernelError::Index { name: "ids", at, got: id, limit: weight.num_rows() });
        }
    }
    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(weight.num_columns())) {
        weight.dequantize_row(id as usize, out);
    }
    Ok(())
}

fn check_row_length(name: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::RowLength { name, expected, got }) }
}

fn check_count(name: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Count { name, expected, got }) }
}

#[cfg(test)]
mod tests;
