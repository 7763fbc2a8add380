//! Rows of a matrix that need not lie next to each other, such as the query part of a fused projection.

use crate::KernelError;

/// `num_rows` rows of `row_length` contiguous elements, `row_stride` elements apart.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a, T> {
    data: &'a [T],
    count: usize,
    length: usize,
    stride: usize,
}

impl<'a, T> Rows<'a, T> {
    /// Views `data` as rows, which may overlap (an expanded row has stride 0). `data` must reach to the last row's end.
    pub fn new(data: &'a [T], num_rows: usize, row_length: usize, row_stride: usize) -> Result<Self, KernelError> {
        let needed = num_rows.checked_sub(1).map_or(0, |last| last * row_stride + row_length);
        if data.len() < needed {
            return Err(KernelError::Count { name: "rows", expected: needed, got: data.len() });
        }
        Ok(Self { data, count: num_rows, length: row_length, stride: row_stride })
    }

    /// Views contiguous rows; what is left of `data` after whole rows is not seen.
    pub fn contiguous(data: &'a [T], row_length: usize) -> Self {
        let num_rows = data.len().checked_div(row_length).unwrap_or(0);
        Self { data, count: num_rows, length: row_length, stride: row_length }
    }

    /// How many rows there are.
    pub fn num_rows(&self) -> usize {
        self.count
    }

    /// Elements a row.
    pub fn row_length(&self) -> usize {
        self.length
    }

    /// One row.
    #[inline]
    pub fn row(&self, index: usize) -> &'a [T] {
        assert!(index < self.count, "row {index} of {}", self.count);
        let start = index * self.stride;
        &self.data[start..start + self.length]
    }
}
