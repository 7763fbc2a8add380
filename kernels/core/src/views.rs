//! Rows of a matrix that need not lie next to each other, such as the query part of a fused projection.

#![allow(unsafe_code)]

use crate::KernelError;
use std::marker::PhantomData;

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
        Ok(Self::of(data, num_rows, row_length, row_stride))
    }

    /// The same of data that is known to reach so far; else reading a row panics.
    pub(crate) fn of(data: &'a [T], num_rows: usize, row_length: usize, row_stride: usize) -> Self {
        Self { data, count: num_rows, length: row_length, stride: row_stride }
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

/// Rows to write that may lie between other rows: the query part of a fused projection, next to the key part.
///
/// Tasks write rows at once, each its own, so handing a row out is the caller's promise.
#[derive(Debug)]
pub struct RowsMut<'a, T> {
    data: *mut T,
    count: usize,
    length: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for unique borrows of its rows; `row_mut` makes its callers promise that no row is held twice.
unsafe impl<T: Send> Send for RowsMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for RowsMut<'_, T> {}

impl<'a, T> RowsMut<'a, T> {
    /// Views `num_rows` rows of `row_length` elements, `row_stride` apart.
    ///
    /// # Safety
    /// The rows lie in one allocation, do not overlap, and nothing else reads or writes them for `'a`.
    pub unsafe fn from_raw(data: *mut T, num_rows: usize, row_length: usize, row_stride: usize) -> Self {
        Self { data, count: num_rows, length: row_length, stride: row_stride, borrow: PhantomData }
    }

    /// Views contiguous rows; what is left of `data` after whole rows is not seen.
    pub fn contiguous(data: &'a mut [T], row_length: usize) -> Self {
        let num_rows = data.len().checked_div(row_length).unwrap_or(0);
        // SAFETY: `data` is a unique borrow, and the rows follow each other inside it.
        unsafe { Self::from_raw(data.as_mut_ptr(), num_rows, row_length, row_length) }
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
    ///
    /// # Safety
    /// While the row is in use nobody else may hold it.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn row_mut(&self, index: usize) -> &mut [T] {
        assert!(index < self.count, "row {index} of {}", self.count);
        // SAFETY: inside the rows by the assertion and `from_raw`'s contract; unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(index * self.stride), self.length) }
    }
}
