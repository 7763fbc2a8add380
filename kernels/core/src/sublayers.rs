//! Halves of decoder layers, as many as follow each other without a sum over shards, in one parallel region.
//!
//! They give what the ops that they are made of give one after another, to the bit. What this saves is calls, regions,
//! and the second thread's wait while small ops run on one.

mod attention;
mod mlp;
mod run;
#[cfg(test)]
mod tests;

pub use attention::{AttentionLayer, AttentionWeights};
pub use mlp::MlpWeights;
pub use run::{Half, OutputStep, Sublayer, run_sublayers};

use crate::paged_attention::AttentionBatch;
use crate::quantized_linear::{ActivationBuffers, BLOCK, BlockSource, MAX_TILE_ROWS, QuantizedActivations};
use crate::rms_norm::RmsNorm;
use crate::threads::{SharedOutput, max_threads};
use crate::{InstructionSet, KernelError, Rows};
use std::cell::RefCell;
use std::ops::Range;

/// Less work than this is not worth a task of its own inside a region.
const MIN_NANOSECONDS_PER_TASK: usize = 500;

/// Rows that enter the first half.
pub struct Stream<'a> {
    /// What is to be added to the residual stream, or is all of it.
    pub x: Rows<'a, f32>,
    /// The stream so far, of x's shape.
    pub residual: Option<Rows<'a, f32>>,
}

/// What a step brings to the attention of all layers; a row of the stream is a token.
#[derive(Debug, Clone, Copy)]
pub struct StepTokens<'a> {
    /// Each token's row of the tables of angles.
    pub positions: &'a [i64],
    /// Each token's slot; negative: not written to the cache. Of two tokens with one slot the later wins.
    pub slot_mapping: &'a [i64],
    /// The sequences.
    pub batch: AttentionBatch<'a>,
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
    input: ActivationBuffers,
    middle: Vec<f32>,
    attended: Vec<f32>,
    partials: Vec<f32>,
    output: ActivationBuffers,
    sum: Vec<f32>,
}

/// Elements that each buffer of a workspace must have room for, a row or in all.
#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    input_columns: usize,
    middle_columns: usize,
    attended_columns: usize,
    num_partials: usize,
    output_columns: usize,
}

impl Sizes {
    fn largest(self, other: Self) -> Self {
        Self {
            input_columns: self.input_columns.max(other.input_columns),
            middle_columns: self.middle_columns.max(other.middle_columns),
            attended_columns: self.attended_columns.max(other.attended_columns),
            num_partials: self.num_partials.max(other.num_partials),
            output_columns: self.output_columns.max(other.output_columns),
        }
    }
}

/// A workspace's buffers, which all halves of a call use one after the other.
#[derive(Clone, Copy)]
struct Buffers<'a> {
    /// The normalized rows, quantized.
    input: QuantizedActivations<'a>,
    /// What the first product gives.
    middle: SharedOutput<'a, f32>,
    /// What attention gives.
    attended: SharedOutput<'a, f32>,
    /// What attention merges.
    partials: SharedOutput<'a, f32>,
    /// What the second product takes, quantized.
    output: QuantizedActivations<'a>,
}

impl Workspace {
    /// The buffers, whose contents are anything yet, and a sum of the stream.
    fn buffers(&mut self, num_rows: usize, width: usize, sizes: Sizes) -> (Buffers<'_>, SharedOutput<'_, f32>) {
        self.middle.resize(num_rows * sizes.middle_columns, 0.0);
        self.attended.resize(num_rows * sizes.attended_columns, 0.0);
        self.partials.resize(sizes.num_partials, 0.0);
        self.sum.resize(num_rows * width, 0.0);
        let buffers = Buffers {
            input: self.input.rows(num_rows, sizes.input_columns),
            middle: SharedOutput::new(&mut self.middle),
            attended: SharedOutput::new(&mut self.attended),
            partials: SharedOutput::new(&mut self.partials),
            output: self.output.rows(num_rows, sizes.output_columns),
        };
        (buffers, SharedOutput::new(&mut self.sum))
    }
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

/// Rows of the stream: given from outside, or made by an earlier phase (contiguous, of that width).
#[derive(Clone, Copy)]
enum StreamRows<'a> {
    Given(Rows<'a, f32>),
    Made(SharedOutput<'a, f32>, usize),
}

impl StreamRows<'_> {
    /// # Safety
    /// The row is made, and nobody writes it while it is in use.
    #[allow(unsafe_code)]
    unsafe fn row(&self, row: usize) -> &[f32] {
        match self {
            Self::Given(rows) => rows.row(row),
            // SAFETY: the caller's promise.
            Self::Made(rows, width) => unsafe { rows.read(row * width, *width) },
        }
    }
}

/// What enters a half: rows, the residual that they are to be added to, and where the sum goes.
#[derive(Clone, Copy)]
struct Inflow<'a> {
    num_rows: usize,
    width: usize,
    x: StreamRows<'a>,
    residual: Option<(StreamRows<'a>, SharedOutput<'a, f32>)>,
}

/// The phase that sums, normalizes and quantizes what enters a half.
struct NormedRows<'a> {
    inflow: Inflow<'a>,
    norm: RmsNorm<'a>,
    quantized: QuantizedActivations<'a>,
    tasks: TileTasks,
    set: InstructionSet,
}

impl<'a> NormedRows<'a> {
    fn new(inflow: Inflow<'a>, norm: RmsNorm<'a>, quantized: QuantizedActivations<'a>, set: InstructionSet) -> Self {
        // One thread sums, normalizes and quantizes about 3 values a nanosecond.
        let tasks = TileTasks::new(&quantized, inflow.num_rows * inflow.width / 3);
        Self { inflow, norm, quantized, tasks, set }
    }

    /// Each task normalizes its tile's rows whole, and quantizes and stores its own columns of them.
    ///
    /// # Safety
    /// What enters is made, and nobody else uses the sums or the quantized rows during this phase.
    #[allow(unsafe_code)]
    unsafe fn run(&self, task: usize) {
        let (tile, blocks) = self.tasks.of(task);
        let width = self.inflow.width;
        let rows = self.quantized.tile_rows(tile);
        NORMED.with_borrow_mut(|normed| {
            normed.resize(MAX_TILE_ROWS * width, 0.0);
            for (row, normed) in rows.clone().zip(normed.chunks_exact_mut(width)) {
                let columns = blocks.start * BLOCK..blocks.end * BLOCK;
                // SAFETY: the caller's promise; a row's columns are in one task.
                let (x, sum) = unsafe {
                    let sum = self.inflow.residual.as_ref().map(|(residual, sum)| {
                        (residual.row(row), sum.part(row * width + columns.start, columns.len()))
                    });
                    (self.inflow.x.row(row), sum)
                };
                self.set.vectorize(
                    #[inline(always)]
                    || normalize(x, sum, columns, self.norm, normed),
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
