//! Bytes that start on a cache line, so that no vector load of packed weights crosses one.

/// One cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A fixed-size byte buffer aligned to 64 bytes, zeroed at first.
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    lines: Vec<Line>,
}

#[allow(unsafe_code)]
impl AlignedBytes {
    pub(crate) fn zeroed(num_bytes: usize) -> Self {
        Self { lines: vec![Line([0; 64]); num_bytes.div_ceil(64)] }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `Line` is 64 plain bytes without padding, and the lines of a `Vec` are contiguous.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 64) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; the borrow of `self` is unique.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * 64) }
    }
}
