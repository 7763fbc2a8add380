//! Halves of a decoder layer, each in one parallel region: all that lies between two sums over shards.
//!
//! Each gives what the ops that it is made of give one after another, to the bit. What it saves is their calls, their
//! regions, and the second thread's wait while small ops run on one.

mod attention;
mod mlp;
#[cfg(test)]
mod tests;

pub use attention::{AttentionInputs, AttentionWeights, attention_sublayer};
pub use mlp::{MlpWeights, mlp_sublayer};

use crate::quantized_linear::{ActivationBuffers, BLOCK, BlockSource, MAX_TILE_ROWS, QuantizedActivations};
use crate::rms_norm::RmsNorm;
use crate::threads::{SharedOutput, max_threads};
use crate::{InstructionSet, KernelError, Rows};
use std::cell::RefCell;
use std::ops::Range;

/// Less work than this is not worth a task of its own inside a region.
const MIN_NANOSECONDS_PER_TASK: usize = 500;

/// Rows that enter a sublayer.
pub struct Stream<'a> {
    /// What is to be added to the residual stream, or is all of it.
    pub x: Rows<'a, f32>,
    /// The stream so far, of x's shape, and contiguous room for the sum.
    pub residual: Option<(Rows<'a, f32>, &'a mut [f32])>,
}

impl Stream<'_> {
    fn check(&self, width: usize, norm: RmsNorm<'_>) -> Result<(), KernelError> {
        let num_rows = self.x.num_rows();
        check_length("x", width, self.x.row_length())?;
        check_count("norm_weight", width, norm.weight.len())?;
        if let Some((residual, sum)) = &self.residual {
            check_length("residual", width, residual.row_length())?;
            check_count("residual", num_rows, residual.num_rows())?;
            check_count("sum", num_rows * width, sum.len())?;
        }
        Ok(())
    }
}

fn check_length(name: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::RowLength { name, expected, got }) }
}

fn check_count(name: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Count { name, expected, got }) }
}

/// The calling thread's buffers, kept from call to call.
#[derive(Default)]
struct Workspace {
    /// The normalized rows, quantized.
    input: ActivationBuffers,
    /// What the first product gives.
    middle: Vec<f32>,
    /// What attention gives.
    attended: Vec<f32>,
    /// What the second product takes, quantized.
    output: ActivationBuffers,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
    /// A tile of normalized rows.
    static NORMED: RefCell<Vec<f32>> = RefCell::default();
}

/// How tiles of activations are cut into tasks, along the columns: enough for all threads, where tiles are few.
#[derive(Clone, Copy)]
struct TileTasks {
    tiles: usize,
    blocks: usize,
    parts: usize,
}

impl TileTasks {
    fn new(rows: &QuantizedActivations<'_>, nanoseconds: usize) -> Self {
        let (tiles, blocks) = (rows.num_tiles(), rows.num_blocks());
        let wanted = (nanoseconds / MIN_NANOSECONDS_PER_TASK).min(2 * max_threads());
        Self { tiles, blocks, parts: wanted.div_ceil(tiles.max(1)).clamp(1, blocks.max(1)) }
    }

    fn num_tasks(self) -> usize {
        self.tiles * self.parts
    }

    /// A task's tile, and its blocks of the tile.
    fn of(self, task: usize) -> (usize, Range<usize>) {
        let part = task % self.parts;
        let blocks = part * self.blocks / self.parts..(part + 1) * self.blocks / self.parts;
        (task / self.parts, blocks)
    }
}

/// The phase that sums, normalizes and quantizes what enters a sublayer.
struct NormedRows<'a> {
    x: Rows<'a, f32>,
    residual: Option<(Rows<'a, f32>, SharedOutput<'a, f32>)>,
    norm: RmsNorm<'a>,
    quantized: QuantizedActivations<'a>,
    tasks: TileTasks,
    set: InstructionSet,
}

impl<'a> NormedRows<'a> {
    fn new(stream: Stream<'a>, norm: RmsNorm<'a>, quantized: QuantizedActivations<'a>, set: InstructionSet) -> Self {
        let Stream { x, residual } = stream;
        let residual = residual.map(|(residual, sum)| (residual, SharedOutput::new(sum)));
        // One thread sums, normalizes and quantizes about 3 values a nanosecond.
        let tasks = TileTasks::new(&quantized, x.num_rows() * x.row_length() / 3);
        Self { x, residual, norm, quantized, tasks, set }
    }

    /// Each task normalizes its tile's rows whole, and quantizes and stores its own columns of them.
    ///
    /// # Safety
    /// Nobody else uses the sums or the quantized rows during this phase.
    #[allow(unsafe_code)]
    unsafe fn run(&self, task: usize) {
        let (tile, blocks) = self.tasks.of(task);
        let width = self.x.row_length();
        let rows = self.quantized.tile_rows(tile);
        NORMED.with_borrow_mut(|normed| {
            normed.resize(MAX_TILE_ROWS * width, 0.0);
            for (row, normed) in rows.clone().zip(normed.chunks_exact_mut(width)) {
                let columns = blocks.start * BLOCK..blocks.end * BLOCK;
                let sum = self.residual.as_ref().map(|(residual, sum)| {
                    // SAFETY: a row's columns are in one task.
                    (residual.row(row), unsafe { sum.part(row * width + columns.start, columns.len()) })
                });
                self.set.vectorize(
                    #[inline(always)]
                    || normalize(self.x.row(row), sum, columns, self.norm, normed),
                );
            }
            let source = TileRows { first_row: rows.start, rows: Rows::contiguous(normed, width) };
            // SAFETY: a tile's blocks are in one task.
            unsafe { self.quantized.quantize(tile, blocks, &source, self.set) };
        });
    }
}

#[inline(always)]
fn normalize(
    x: &[f32],
    residual_and_sum: Option<(&[f32], &mut [f32])>,
    columns: Range<usize>,
    norm: RmsNorm<'_>,
    out: &mut [f32],
) {
    if let Some((residual, sum)) = residual_and_sum {
        for ((out, x), residual) in out.iter_mut().zip(x).zip(residual) {
            *out = x + residual;
        }
        sum.copy_from_slice(&out[columns]);
    } else {
        out.copy_from_slice(x);
    }
    norm.apply(out);
}

/// Rows of one tile.
struct TileRows<'a> {
    first_row: usize,
    rows: Rows<'a, f32>,
}

impl BlockSource for TileRows<'_> {
    #[inline(always)]
    fn read(&self, row: usize, block: usize, values: &mut [f32; BLOCK]) {
        self.rows.read(row - self.first_row, block, values);
    }
}
