//! Matrix products of activations with weights of the same type, float32 or bfloat16, summed in float32.
//!
//! A weight is packed in groups of 16 rows: a cache line holds one column of float32, or two of bfloat16, of all 16, so
//! that one instruction multiplies them and adds. The sum over K runs in one order (of float32 in stretches of
//! [`STRETCH`] columns, whose sums are added in turn), whatever the number of rows: a row's result is bit-equal alone and
//! in a batch.

use crate::aligned::AlignedBytes;
use crate::threads::{SharedOutput, parallel_for, run_length, threads_for};
use crate::{Float, InstructionSet, KernelError, Rows, simd};
use half::bf16;
use std::marker::PhantomData;
use std::ops::Range;

/// Weight rows that are interleaved: the float32 lanes of a 64-byte vector.
pub(crate) const GROUP: usize = 16;
/// Most groups that one pass over rows of activations serves.
pub(crate) const MAX_GROUPS: usize = 4;
/// Most rows of activations that one pass over weights serves.
pub(crate) const MAX_ROWS: usize = 8;
/// Columns of float32 that are summed by themselves: a shorter sum loses less to rounding.
pub(crate) const STRETCH: usize = 256;
/// A panel of activations must stay in the second-level cache while the weights stream by.
const MAX_PANEL_BYTES: usize = 512 * 1024;
/// Bytes of a line: a lane of four bytes for each row of a group.
const LINE: usize = 4 * GROUP;

/// Sums of one pass: `[group][activation row][weight row of the group]`.
pub(crate) type Sums = [[[f32; GROUP]; MAX_ROWS]; MAX_GROUPS];

/// A type of weights and activations.
pub trait Element: Float {
    /// Its name, for errors.
    const NAME: &'static str;
    /// Columns that share a lane.
    const IN_LANE: usize;
    /// Puts the columns of one row into its lane.
    fn to_lane(columns: &[Self]) -> [u8; 4];
    /// One of them back.
    fn from_lane(lane: [u8; 4], column: usize) -> Self;
    /// Up to `MAX_GROUPS` groups of weights against 1, 2, 4 or 8 rows; writes the sums of each group's rows.
    #[doc(hidden)]
    fn multiply(weights: &[u8], rows: &[&[Self]], sums: &mut Sums, set: InstructionSet);
}

impl Element for f32 {
    const NAME: &'static str = "float32";
    const IN_LANE: usize = 1;
    fn to_lane(columns: &[Self]) -> [u8; 4] {
        columns[0].to_le_bytes()
    }
    fn from_lane(lane: [u8; 4], _column: usize) -> Self {
        Self::from_le_bytes(lane)
    }
    fn multiply(weights: &[u8], rows: &[&[Self]], sums: &mut Sums, set: InstructionSet) {
        simd::multiply_f32(weights, rows, sums, set);
    }
}

impl Element for bf16 {
    const NAME: &'static str = "bfloat16";
    const IN_LANE: usize = 2;
    fn to_lane(columns: &[Self]) -> [u8; 4] {
        let ([a, b], [c, d]) = (columns[0].to_le_bytes(), columns[1].to_le_bytes());
        [a, b, c, d]
    }
    fn from_lane(lane: [u8; 4], column: usize) -> Self {
        Self::from_le_bytes([lane[2 * column], lane[2 * column + 1]])
    }
    fn multiply(weights: &[u8], rows: &[&[Self]], sums: &mut Sums, set: InstructionSet) {
        simd::multiply_bf16(weights, rows, sums, set);
    }
}

/// A weight `[num_rows, num_columns]` packed for the kernels.
#[derive(Debug)]
pub struct PackedWeight<T> {
    bytes: AlignedBytes,
    num_rows: usize,
    num_columns: usize,
    element: PhantomData<T>,
}

impl<T: Element> PackedWeight<T> {
    /// Packs contiguous rows of a multiple of [`Element::IN_LANE`] columns. Rows that do not fill a group are padded with
    /// zeros.
    pub fn new(rows: &[T], num_columns: usize) -> Result<Self, KernelError> {
        if num_columns == 0 || !num_columns.is_multiple_of(T::IN_LANE) {
            return Err(KernelError::Columns { got: num_columns, block: T::IN_LANE, block_type: T::NAME });
        }
        if !rows.len().is_multiple_of(num_columns) {
            let expected = rows.len().next_multiple_of(num_columns);
            return Err(KernelError::Count { name: "weight", expected, got: rows.len() });
        }
        let num_rows = rows.len() / num_columns;
        let group_bytes = num_columns / T::IN_LANE * LINE;
        let mut bytes = AlignedBytes::zeroed(num_rows.div_ceil(GROUP) * group_bytes);
        let groups = bytes.as_mut_slice().chunks_exact_mut(group_bytes);
        for (group, rows) in groups.zip(rows.chunks(GROUP * num_columns)) {
            for (lane, row) in rows.chunks_exact(num_columns).enumerate() {
                for (columns, line) in row.chunks_exact(T::IN_LANE).zip(group.chunks_exact_mut(LINE)) {
                    line[4 * lane..4 * lane + 4].copy_from_slice(&T::to_lane(columns));
                }
            }
        }
        Ok(Self { bytes, num_rows, num_columns, element: PhantomData })
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
        self.num_columns / T::IN_LANE * LINE
    }

    fn groups(&self, groups: Range<usize>) -> &[u8] {
        &self.bytes.as_slice()[groups.start * self.group_bytes()..groups.end * self.group_bytes()]
    }

    fn read_row(&self, row: usize, out: &mut [T]) {
        let lane = 4 * (row % GROUP);
        let lines = self.groups(row / GROUP..row / GROUP + 1).chunks_exact(LINE);
        for (out, line) in out.chunks_exact_mut(T::IN_LANE).zip(lines) {
            let lane = [line[lane], line[lane + 1], line[lane + 2], line[lane + 3]];
            for (column, out) in out.iter_mut().enumerate() {
                *out = T::from_lane(lane, column);
            }
        }
    }
}

/// Multiplies each row of `x` with the weight: `out[t, n] = sum over k of x[t, k] * weight[n, k]`, rounded once.
///
/// `x` has rows of `num_columns` values, `out` is contiguous `[x.num_rows(), num_rows]` and wholly overwritten.
pub fn float_linear<T: Element>(
    x: Rows<'_, T>,
    weight: &PackedWeight<T>,
    out: &mut [T],
    set: InstructionSet,
) -> Result<(), KernelError> {
    if x.row_length() != weight.num_columns {
        return Err(KernelError::RowLength { name: "x", expected: weight.num_columns, got: x.row_length() });
    }
    if out.len() != x.num_rows() * weight.num_rows {
        return Err(KernelError::Count { name: "out", expected: x.num_rows() * weight.num_rows, got: out.len() });
    }
    // One thread streams about 16 bytes of weights a nanosecond, or multiplies about 128 pairs of lanes.
    let num_lanes = weight.num_columns / T::IN_LANE * weight.num_rows;
    let num_threads = threads_for((num_lanes / 4).max(x.num_rows() * num_lanes / 64));
    let groups_per_task = run_length(weight.num_groups(), num_threads).next_multiple_of(MAX_GROUPS);
    let tasks_per_panel = weight.num_groups().div_ceil(groups_per_task);
    let rows_per_panel = (MAX_PANEL_BYTES / (size_of::<T>() * weight.num_columns)).max(MAX_ROWS) / MAX_ROWS * MAX_ROWS;
    let call = Call { x, weight, out: SharedOutput::new(out), set };
    parallel_for(num_threads, x.num_rows().div_ceil(rows_per_panel) * tasks_per_panel, |task| {
        let (panel, groups) = (task / tasks_per_panel, task % tasks_per_panel * groups_per_task);
        let rows = panel * rows_per_panel..x.num_rows().min((panel + 1) * rows_per_panel);
        call.run(rows, groups..weight.num_groups().min(groups + groups_per_task));
    });
    Ok(())
}

struct Call<'a, T> {
    x: Rows<'a, T>,
    weight: &'a PackedWeight<T>,
    out: SharedOutput<'a, T>,
    set: InstructionSet,
}

impl<T: Element> Call<'_, T> {
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
                T::multiply(weights, &x[..num_rows], &mut sums, self.set);
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
            *out = T::from_f32(*sum);
        }
    }
}

/// Gathers rows: `out[t] = weight[ids[t]]`, `out` contiguous `[ids.len(), num_columns]`.
pub fn float_embedding<T: Element>(ids: &[i64], weight: &PackedWeight<T>, out: &mut [T]) -> Result<(), KernelError> {
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

    fn noise<T: Element>(count: usize, seed: u32) -> Vec<T> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            T::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..count).map(|_| next()).collect()
    }

    fn multiply<T: Element>(x: &[T], weight: &PackedWeight<T>, set: InstructionSet) -> Vec<T> {
        let mut out = vec![T::from_f32(f32::NAN); x.len() / weight.num_columns() * weight.num_rows()];
        float_linear(Rows::contiguous(x, weight.num_columns()), weight, &mut out, set).unwrap();
        out
    }

    fn bits<T: Element>(values: &[T]) -> Vec<u32> {
        values.iter().map(|value| value.to_f32().to_bits()).collect()
    }

    /// `unit`: the relative error of one rounding.
    fn check_product<T: Element>(num_columns: usize, unit: f64) {
        let num_rows = 75;
        let (dense, x) = (noise::<T>(num_rows * num_columns, 1), noise::<T>(13 * num_columns, 2));
        let weight = PackedWeight::new(&dense, num_columns).unwrap();
        for set in InstructionSet::available() {
            let out = multiply(&x, &weight, set);
            for (t, x) in x.chunks_exact(num_columns).enumerate() {
                for (n, row) in dense.chunks_exact(num_columns).enumerate() {
                    let products = x.iter().zip(row).map(|(x, w)| f64::from(x.to_f32()) * f64::from(w.to_f32()));
                    let (exact, magnitude) = products.fold((0.0, 0.0), |(sum, all), p| (sum + p, all + p.abs()));
                    // The result's own rounding, and the float32 sum's error.
                    let error = (f64::from(out[t * num_rows + n].to_f32()) - exact).abs();
                    assert!(error <= exact.abs() * unit + 1e-5 * magnitude, "{} {t} {n}: {error}", set.name());
                }
            }
        }
    }

    #[test]
    fn every_set_rounds_the_exact_product_once() {
        check_product::<bf16>(90, 1.0 / 256.0);
        check_product::<f32>(91, 1e-7);
        check_product::<f32>(2 * STRETCH + 3, 1e-7);
    }

    fn check_rows<T: Element>(num_columns: usize) {
        let weight = PackedWeight::new(&noise::<T>(150 * num_columns, 3), num_columns).unwrap();
        let x = noise::<T>(33 * num_columns, 4);
        for set in InstructionSet::available() {
            let batch = multiply(&x, &weight, set);
            for (x, expected) in x.chunks_exact(num_columns).zip(batch.chunks_exact(150)) {
                assert_eq!(bits(&multiply(x, &weight, set)), bits(expected), "{}", set.name());
            }
        }
    }

    #[test]
    fn a_row_is_bit_equal_alone_and_in_any_batch() {
        check_rows::<bf16>(64);
        check_rows::<f32>(63);
        check_rows::<f32>(STRETCH + 64);
    }

    #[test]
    fn embedding_gathers_the_rows_and_wrong_arguments_are_refused() {
        let dense = noise::<bf16>(20 * 6, 5);
        let weight = PackedWeight::new(&dense, 6).unwrap();
        let mut out = vec![bf16::NAN; 12];
        float_embedding(&[17, 0], &weight, &mut out).unwrap();
        assert_eq!((&out[..6], &out[6..]), (&dense[17 * 6..18 * 6], &dense[..6]));
        let error = float_embedding(&[0, 20], &weight, &mut out).unwrap_err();
        assert_eq!(error, KernelError::Index { name: "ids", at: 1, got: 20, limit: 20 });
        let odd = KernelError::Columns { got: 5, block: 2, block_type: "bfloat16" };
        assert_eq!(PackedWeight::new(&dense, 5).unwrap_err(), odd);
        let error = float_linear(Rows::contiguous(&dense, 4), &weight, &mut [], InstructionSet::PORTABLE);
        assert_eq!(error, Err(KernelError::RowLength { name: "x", expected: 6, got: 4 }));
        let dense = noise::<f32>(20 * 5, 5);
        let mut out = [f32::NAN; 5];
        float_embedding(&[19], &PackedWeight::new(&dense, 5).unwrap(), &mut out).unwrap();
        assert_eq!(bits(&out), bits(&dense[95..]));
    }
}
