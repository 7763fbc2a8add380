//! Rows in groups, each of which has a weight of its own: the tokens of a layer of experts.

use super::activations::with_buffers;
use super::{BLOCK, BlockSource, PackedWeight, Product, check_count, check_row_length};
use crate::threads::{Phase, SharedOutput, parallel_phases, threads_for};
use crate::{Float, InstructionSet, KernelError, Rows};

/// Multiplies each row of `x` with the weight of its group: rows `ends[g - 1]` to `ends[g] - 1` with `weights[g]`.
///
/// The weights are of one shape. `x` has rows of `num_columns` values, `out` is contiguous `[x.num_rows(), num_rows]` and
/// wholly overwritten. A row's result is bit-equal to that of `quantized_linear`.
pub fn grouped_linear<T: Float>(
    x: Rows<'_, T>,
    weights: &[&PackedWeight],
    ends: &[i64],
    out: &mut [f32],
    set: InstructionSet,
) -> Result<(), KernelError> {
    check_count("ends", weights.len(), ends.len())?;
    let Some(first) = weights.first() else {
        return check_count("x", 0, x.num_rows());
    };
    let (num_rows, num_columns) = (first.num_rows(), first.num_columns());
    for weight in weights {
        check_row_length("weights", num_columns, weight.num_columns())?;
        check_count("weights", num_rows, weight.num_rows())?;
    }
    check_row_length("x", num_columns, x.row_length())?;
    check_count("out", x.num_rows() * num_rows, out.len())?;
    let counts = group_sizes(ends, x.num_rows())?;
    with_buffers(|buffers| {
        let mut rest = out;
        let mut groups = Vec::with_capacity(weights.len());
        let mut first_row = 0;
        for (quantized, weight) in buffers.parts(&counts, num_columns).into_iter().zip(weights) {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(quantized.num_rows() * num_rows);
            rest = others;
            if quantized.num_rows() > 0 {
                let product = Product::new(quantized, weight, SharedOutput::new(part), set);
                groups.push((RowsFrom { x, first_row }, quantized, product));
            }
            first_row += quantized.num_rows();
        }
        let tiles = Tasks::new(groups.iter().map(|(_, quantized, _)| quantized.num_tiles()));
        let products = Tasks::new(groups.iter().map(|(_, _, product)| product.num_tasks()));
        #[allow(unsafe_code)]
        let quantize = |task| {
            let (group, tile) = tiles.find(task);
            let (source, quantized, _) = &groups[group];
            // SAFETY: each tile of each group is quantized by one task, and read in the next phase only.
            unsafe { quantized.quantize(tile, 0..num_columns / BLOCK, source, set) }
        };
        #[allow(unsafe_code)]
        let multiply = |task| {
            let (group, task) = products.find(task);
            // SAFETY: the phase before has quantized all tiles; this one writes each group's part of `out`, each task its
            // columns and rows.
            unsafe { groups[group].2.run(task) }
        };
        let nanoseconds = groups.iter().map(|(_, _, product)| product.nanoseconds()).sum();
        parallel_phases(
            threads_for(nanoseconds),
            &[
                Phase { num_tasks: tiles.count(), task: &quantize },
                Phase { num_tasks: products.count(), task: &multiply },
            ],
        );
    });
    Ok(())
}

fn group_sizes(ends: &[i64], num_rows: usize) -> Result<Vec<usize>, KernelError> {
    let mut sizes = Vec::with_capacity(ends.len());
    let mut start = 0;
    for (at, &end) in ends.iter().enumerate() {
        let size = end - start;
        if size < 0 || usize::try_from(end).map_or(true, |end| end > num_rows) {
            return Err(KernelError::Index { name: "ends", at, got: end, limit: num_rows + 1 });
        }
        sizes.push(size as usize);
        start = end;
    }
    check_count("ends", num_rows, start as usize)?;
    Ok(sizes)
}

/// The rows of `x` from one on.
struct RowsFrom<'a, T> {
    x: Rows<'a, T>,
    first_row: usize,
}

impl<T: Float> BlockSource for RowsFrom<'_, T> {
    #[inline(always)]
    fn read(&self, row: usize, block: usize, values: &mut [f32; BLOCK]) {
        self.x.read(self.first_row + row, block, values);
    }
}

/// The tasks of several groups, numbered through.
struct Tasks {
    ends: Vec<usize>,
}

impl Tasks {
    fn new(counts: impl Iterator<Item = usize>) -> Self {
        let ends = counts.scan(0, |end, count| {
            *end += count;
            Some(*end)
        });
        Self { ends: ends.collect() }
    }

    fn count(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The group of a task, and its number there.
    fn find(&self, task: usize) -> (usize, usize) {
        let group = self.ends.partition_point(|end| *end <= task);
        (group, task - if group == 0 { 0 } else { self.ends[group - 1] })
    }
}
