//! Matrix products with weights of 2 to 8 bits: 16-bit activations, integer dot products a block of 32 (or its halves),
//! float32 sums.
//!
//! A weight is `scale * (q - offset) + minimum` with unsigned `q` of a byte at most, so that one instruction (u8 times
//! s8, summed by fours) serves all formats. The sum over K runs block by block in one fixed order, whatever the number
//! of rows: a row's result is bit-equal alone and in a batch. The activations of a row are quantized by blocks of 32 as
//! well, to 16 bits.

mod activations;
mod block_type;
mod grouped;
mod packing;

pub(crate) use activations::{
    ActivationBuffers, ActivationTile, BlockSource, LARGEST, QuantizedActivations, VALUES_BYTES, WORD_OF_COLUMN,
};
pub use block_type::BlockType;
pub(crate) use block_type::{Format, Scales, TABLE, with_block_type};
pub use grouped::grouped_linear;
pub(crate) use packing::Group;
pub use packing::{PackedWeight, Segment};

use crate::threads::{Phase, SharedOutput, parallel_phases, run_length, threads_for};
use crate::{Float, InstructionSet, KernelError, Rows, simd};
use activations::with_buffers;

/// Columns that share a scale.
pub(crate) const BLOCK: usize = 32;
/// Weight rows that are interleaved: the float32 lanes of a 64-byte vector.
pub(crate) const GROUP: usize = 16;
/// Most activation rows that one pass over a group's weights serves.
pub(crate) const MAX_TILE_ROWS: usize = 8;
/// Most groups of one type that one pass over a tile serves.
pub(crate) const TILE_GROUPS: usize = 2;
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
    with_buffers(|buffers| {
        let quantized = buffers.rows(x.num_rows(), weight.num_columns());
        let product = Product::new(quantized, weight, SharedOutput::new(out), set);
        #[allow(unsafe_code)]
        // SAFETY: each tile is quantized by one task, and read in the next phase only.
        let quantize = |tile| unsafe { quantized.quantize(tile, 0..quantized.num_blocks(), &x, set) };
        #[allow(unsafe_code)]
        // SAFETY: the phase before has quantized all tiles; this one writes `out`, each task its columns and rows.
        let multiply = |task| unsafe { product.run(task) };
        parallel_phases(
            threads_for(product.nanoseconds),
            &[
                Phase { num_tasks: quantized.num_tiles(), task: &quantize },
                Phase { num_tasks: product.num_tasks(), task: &multiply },
            ],
        );
    });
    Ok(())
}

/// A product cut into tasks. A task takes some groups of the weight, and of the activations as many rows as stay in the
/// second-level cache while the weights stream by; those of one such panel follow each other.
pub(crate) struct Product<'a> {
    x: QuantizedActivations<'a>,
    weight: &'a PackedWeight,
    out: SharedOutput<'a, f32>,
    set: InstructionSet,
    nanoseconds: usize,
    tiles_per_panel: usize,
    groups_per_task: usize,
}

#[allow(unsafe_code)]
impl<'a> Product<'a> {
    /// `out`: `[x.num_rows(), weight.num_rows()]`.
    pub(crate) fn new(
        x: QuantizedActivations<'a>,
        weight: &'a PackedWeight,
        out: SharedOutput<'a, f32>,
        set: InstructionSet,
    ) -> Self {
        // One thread streams about 16 bytes of weights a nanosecond, or multiplies about 128 pairs.
        let pairs = x.num_rows() * weight.num_columns() * weight.num_rows();
        let nanoseconds = (weight.num_bytes() / 16).max(pairs / 128);
        let tile_bytes = MAX_TILE_ROWS * weight.num_columns() / BLOCK * VALUES_BYTES;
        let tiles_per_panel = (MAX_PANEL_BYTES / tile_bytes.max(1)).max(1);
        let groups_per_task = run_length(weight.num_groups(), threads_for(nanoseconds)).next_multiple_of(TILE_GROUPS);
        Self { x, weight, out, set, nanoseconds, tiles_per_panel, groups_per_task }
    }

    /// About how long one thread takes.
    pub(crate) fn nanoseconds(&self) -> usize {
        self.nanoseconds
    }

    pub(crate) fn num_tasks(&self) -> usize {
        self.x.num_tiles().div_ceil(self.tiles_per_panel) * self.tasks_per_panel()
    }

    fn tasks_per_panel(&self) -> usize {
        self.weight.num_groups().div_ceil(self.groups_per_task)
    }

    /// All rows of a panel against some groups: a group's weights stay in the first-level cache from tile to tile.
    ///
    /// # Safety
    /// The activations are quantized, and nobody else holds the task's part of `out`.
    pub(crate) unsafe fn run(&self, task: usize) {
        let (panel, first_group) =
            (task / self.tasks_per_panel(), task % self.tasks_per_panel() * self.groups_per_task);
        let tiles = panel * self.tiles_per_panel..self.x.num_tiles().min((panel + 1) * self.tiles_per_panel);
        let end = self.weight.num_groups().min(first_group + self.groups_per_task);
        let mut sums: [TileSums; TILE_GROUPS] = Default::default();
        let mut next = first_group;
        while next < end {
            let pair = [self.weight.group(next), self.weight.group((next + 1).min(end - 1))];
            let is_pair = next + 1 < end && pair[0].block_type == pair[1].block_type;
            let pair = if is_pair { &pair[..] } else { &pair[..1] };
            for tile in tiles.clone() {
                // SAFETY: quantized, by the caller's promise.
                let tile = unsafe { self.x.tile(tile, tile == tiles.start) };
                simd::multiply_tile(pair, &tile, &mut sums, self.set);
                for (group, sums) in pair.iter().zip(&sums) {
                    for (row, sums) in sums[..tile.num_rows].iter().enumerate() {
                        let start = (tile.first_row + row) * self.weight.num_rows() + group.rows.start;
                        // SAFETY: each task owns the columns of its groups, in its panel's rows; groups share none.
                        let out = unsafe { self.out.part(start, group.rows.len()) };
                        match <&mut [f32; GROUP]>::try_from(&mut *out) {
                            // One store, where a copy of any length would be a call.
                            Ok(out) => *out = *sums,
                            Err(_) => out.copy_from_slice(&sums[..out.len()]),
                        }
                    }
                }
            }
            next += pair.len();
        }
    }
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
