//! Matrix products of bfloat16 activations with bfloat16 weights, summed in float32.
//!
//! A weight is packed in groups of 16 rows: for each two columns a cache line of 16 pairs, so that one instruction
//! multiplies both and adds. The sum over K runs in order, whatever the number of rows: a row's result is bit-equal alone
//! and in a batch.

use crate::aligned::AlignedBytes;
use crate::threads::{SharedOutput, parallel_for, run_length, threads_for};
use crate::{InstructionSet, KernelError, Rows, simd};
use half::bf16;
use std::ops::Range;

/// Weight rows that are interleaved: the float32 lanes of a 64-byte vector.
pub(crate) const GROUP: usize = 16;
/// Most groups that one pass over rows of activations serves.
pub(crate) const MAX_GROUPS: usize = 4;
/// Most rows of activations that one pass over weights serves.
pub(crate) const MAX_ROWS: usize = 8;
/// A panel of activations must stay in the second-level cache while the weights stream by.
const MAX_PANEL_BYTES: usize = 512 * 1024;
/// Bytes of a pair of columns of a group.
const LINE: usize = 64;

/// Sums of one pass: `[group][activation row][weight row of the group]`.
pub(crate) type Sums = [[[f32; GROUP]; MAX_ROWS]; MAX_GROUPS];

/// A weight `[num_rows, num_columns]` packed for the kernels.
#[derive(Debug)]
pub struct PackedWeight {
    bytes: AlignedBytes,
    num_rows: usize,
    num_columns: usize,
}

impl PackedWeight {
    /// Packs contiguous rows of an even number of columns. Rows that do not fill a group are padded with zeros.
    pub fn new(rows: &[bf16], num_columns: usize) -> Result<Self, KernelError> {
        if num_columns == 0 || !num_columns.is_multiple_of(2) {
            return Err(KernelError::Columns { got: num_columns, block: 2, block_type: "bfloat16" });
        }
        if !rows.len().is_multiple_of(num_columns) {
            let expected = rows.len().next_multiple_of(num_columns);
            return Err(KernelError::Count { name: "weight", expected, got: rows.len() });
        }
        let num_rows = rows.len() / num_columns;
        let mut bytes = AlignedBytes::zeroed(num_rows.div_ceil(GROUP) * num_columns / 2 * LINE);
        let groups = bytes.as_mut_slice().chunks_exact_mut(num_columns / 2 * LINE);
        for (group, rows) in groups.zip(rows.chunks(GROUP * num_columns)) {
            for (lane, row) in rows.chunks_exact(num_columns).enumerate() {
                for (pair, line) in row.chunks_exact(2).zip(group.chunks_exact_mut(LINE)) {
                    line[4 * lane..4 * lane + 2].copy_from_slice(&pair[0].to_le_bytes());
                    line[4 * lane + 2..4 * lane + 4].copy_from_slice(&pair[1].to_le_bytes());
                }
            }
        }
        Ok(Self { bytes, num_rows, num_columns })
    }

    /// Output features.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Input features.
    pub fn num_columns(&self) -> usize {
        self.num_columns
    }

    fn num_groups(&self) -> usize {
        self.num_rows.div_ceil(GROUP)
    }

    fn group_bytes(&self) -> usize {
        self.num_columns / 2 * LINE
    }

    fn groups(&self, groups: Range<usize>) -> &[u8] {
        &self.bytes.as_slice()[groups.start * self.group_bytes()..groups.end * self.group_bytes()]
    }

    fn read_row(&self, row: usize, out: &mut [bf16]) {
        let lane = 4 * (row % GROUP);
        let lines = self.groups(row / GROUP..row / GROUP + 1).chunks_exact(LINE);
        for (out, line) in out.chunks_exact_mut(2).zip(lines) {
            out[0] = bf16::from_le_bytes([line[lane], line[lane + 1]]);
            out[1] = bf16::from_le_bytes([line[lane + 2], line[lane + 3]]);
        }
    }
}

/// Multiplies each row of `x` with the weight: `out[t, n] = sum over k of x[t, k] * weight[n, k]`, rounded once.
///
/// `x` has rows of `num_columns` values, `out` is contiguous `[x.num_rows(), num_rows]` and wholly overwritten.
pub fn bf16_linear(
    x: Rows<'_, bf16>,
    weight: &PackedWeight,
    out: &mut [bf16],
    set: InstructionSet,
) -> Result<(), KernelError> {
    if x.row_length() != weight.num_columns {
        return Err(KernelError::RowLength { name: "x", expected: weight.num_columns, got: x.row_length() });
    }
    if out.len() != x.num_rows() * weight.num_rows {
        return Err(KernelError::Count { name: "out", expected: x.num_rows() * weight.num_rows, got: out.len() });
    }
    // One thread streams about 16 bytes of weights a nanosecond, or multiplies about 128 pairs.
    let num_pairs = x.num_rows() * weight.num_columns * weight.num_rows;
    let num_threads = threads_for((weight.num_rows * weight.num_columns / 8).max(num_pairs / 128));
    let groups_per_task = run_length(weight.num_groups(), num_threads).next_multiple_of(MAX_GROUPS);
    let tasks_per_panel = weight.num_groups().div_ceil(groups_per_task);
    let rows_per_panel = (MAX_PANEL_BYTES / (2 * weight.num_columns)).max(MAX_ROWS) / MAX_ROWS * MAX_ROWS;
    let call = Call { x, weight, out: SharedOutput::new(out), set };
    parallel_for(num_threads, x.num_rows().div_ceil(rows_per_panel) * tasks_per_panel, |task| {
        let (panel, groups) = (task / tasks_per_panel, task % tasks_per_panel * groups_per_task);
        let rows = panel * rows_per_panel..x.num_rows().min((panel + 1) * rows_per_panel);
        call.run(rows, groups..weight.num_groups().min(groups + groups_per_task));
    });
    Ok(())
}

struct Call<'a> {
    x: Rows<'a, bf16>,
    weight: &'a PackedWeight,
    out: SharedOutput<'a, bf16>,
    set: InstructionSet,
}

impl Call<'_> {
    /// Some rows against some groups: a few groups stay in the first-level cache while the rows pass.
    fn run(&self, rows: Range<usize>, groups: Range<usize>) {
        let mut sums: Sums = Default::default();
        for first_group in groups.clone().step_by(MAX_GROUPS) {
            let groups = first_group..groups.end.min(first_group + MAX_GROUPS);
            let weights = self.weight.groups(groups.clone());
            let mut first_row = rows.start;
            while first_row < rows.end {
                let num_rows = 1 << (rows.end - first_row).min(MAX_ROWS).ilog2();
                let mut x = [self.x.row(first_row); MAX_ROWS];
                for (row, x) in x[..num_rows].iter_mut().enumerate() {
                    *x = self.x.row(first_row + row);
                }
                simd::multiply_bf16(weights, &x[..num_rows], &mut sums, self.set);
                for (group, sums) in groups.clone().zip(&sums) {
                    for (row, sums) in sums[..num_rows].iter().enumerate() {
                        self.store(first_row + row, group * GROUP, sums);
                    }
                }
                first_row += num_rows;
            }
        }
    }

    fn store(&self, row: usize, first: usize, sums: &[f32; GROUP]) {
        let length = GROUP.min(self.weight.num_rows - first);
        #[allow(unsafe_code)]
        // SAFETY: each task owns the columns of its groups, in its panel's rows; groups share no columns.
        let out = unsafe { self.out.part(row * self.weight.num_rows + first, length) };
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = <bf16 as crate::Float>::from_f32(*sum);
        }
    }
}

/// Gathers rows: `out[t] = weight[ids[t]]`, `out` contiguous `[ids.len(), num_columns]`.
pub fn bf16_embedding(ids: &[i64], weight: &PackedWeight, out: &mut [bf16]) -> Result<(), KernelError> {
    if out.len() != ids.len() * weight.num_columns {
        return Err(KernelError::Count { name: "out", expected: ids.len() * weight.num_columns, got: out.len() });
    }
    for (at, &id) in ids.iter().enumerate() {
        if usize::try_from(id).map_or(true, |row| row >= weight.num_rows) {
            return Err(KernelError::Index { name: "ids", at, got: id, limit: weight.num_rows });
        }
    }
    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(weight.num_columns)) {
        weight.read_row(id as usize, out);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<bf16> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..count).map(|_| next()).collect()
    }

    fn multiply(x: &[bf16], weight: &PackedWeight, set: InstructionSet) -> Vec<bf16> {
        let mut out = vec![bf16::NAN; x.len() / weight.num_columns() * weight.num_rows()];
        bf16_linear(Rows::contiguous(x, weight.num_columns()), weight, &mut out, set).unwrap();
        out
    }

    #[test]
    fn every_set_rounds_the_exact_product_once() {
        let (num_rows, num_columns) = (75, 90);
        let (dense, x) = (noise(num_rows * num_columns, 1), noise(13 * num_columns, 2));
        let weight = PackedWeight::new(&dense, num_columns).unwrap();
        for set in InstructionSet::available() {
            let out = multiply(&x, &weight, set);
            for (t, x) in x.chunks_exact(num_columns).enumerate() {
                for (n, row) in dense.chunks_exact(num_columns).enumerate() {
                    let products = x.iter().zip(row).map(|(x, w)| x.to_f64() * w.to_f64());
                    let (exact, magnitude) = products.fold((0.0, 0.0), |(sum, all), p| (sum + p, all + p.abs()));
                    // Half a unit of bfloat16, and the float32 sum's own error.
                    let error = (out[t * num_rows + n].to_f64() - exact).abs();
                    assert!(error <= exact.abs() / 256.0 + 1e-5 * magnitude, "{} {t} {n}: {error}", set.name());
                }
            }
        }
    }

    #[test]
    fn a_row_is_bit_equal_alone_and_in_any_batch() {
        let weight = PackedWeight::new(&noise(150 * 64, 3), 64).unwrap();
        let x = noise(33 * 64, 4);
        for set in InstructionSet::available() {
            let batch = multiply(&x, &weight, set);
            for (x, expected) in x.chunks_exact(64).zip(batch.chunks_exact(150)) {
                assert_eq!(multiply(x, &weight, set), expected);
            }
        }
    }

    #[test]
    fn embedding_gathers_the_rows_and_wrong_arguments_are_refused() {
        let dense = noise(20 * 6, 5);
        let weight = PackedWeight::new(&dense, 6).unwrap();
        let mut out = vec![bf16::NAN; 12];
        bf16_embedding(&[17, 0], &weight, &mut out).unwrap();
        assert_eq!((&out[..6], &out[6..]), (&dense[17 * 6..18 * 6], &dense[..6]));
        let error = bf16_embedding(&[0, 20], &weight, &mut out).unwrap_err();
        assert_eq!(error, KernelError::Index { name: "ids", at: 1, got: 20, limit: 20 });
        let odd = KernelError::Columns { got: 5, block: 2, block_type: "bfloat16" };
        assert_eq!(PackedWeight::new(&dense, 5).unwrap_err(), odd);
        let error = bf16_linear(Rows::contiguous(&dense, 4), &weight, &mut [], InstructionSet::PORTABLE);
        assert_eq!(error, Err(KernelError::RowLength { name: "x", expected: 6, got: 4 }));
    }
}
