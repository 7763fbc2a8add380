//! An output that several tasks write at once, each its own part.
#![allow(unsafe_code)]

use std::marker::PhantomData;

/// A mutable slice shared between the tasks of one region. The tasks promise to write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct SharedOutput<'a, T> {
    data: *mut T,
    length: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a unique borrow of a slice of `T`; handing parts of it to other threads is what `Send` of
// `&mut [T]` allows, and `part` makes its callers promise that the parts are disjoint.
unsafe impl<T: Send> Send for SharedOutput<'_, T> {}
// SAFETY: as above: shared access yields only parts that callers promise to be disjoint.
unsafe impl<T: Send> Sync for SharedOutput<'_, T> {}

impl<'a, T> SharedOutput<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { data: slice.as_mut_ptr(), length: slice.len(), borrow: PhantomData }
    }

    /// The part of `length` elements from `start`; panics when it is not inside the slice.
    ///
    /// # Safety
    /// While the part is in use no other task may hold a part that overlaps it.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start <= self.length && length <= self.length - start, "part {start}+{length} of {}", self.length);
        // SAFETY: in bounds by the assertion; unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), length) }
    }

    /// The same part to read, in a phase after the one that wrote it.
    ///
    /// # Safety
    /// While the part is in use no task may hold a part to write that overlaps it.
    #[inline]
    pub(crate) unsafe fn read(&self, start: usize, length: usize) -> &'a [T] {
        assert!(start <= self.length && length <= self.length - start, "part {start}+{length} of {}", self.length);
        // SAFETY: in bounds by the assertion; not written meanwhile by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.data.add(start), length) }
    }
}
