//! Kernels in plain Rust: what runs where no wider instructions are to be had, and the check on those that do.

pub(super) mod attention;
pub(super) mod float_linear;
pub(super) mod quantized_linear;
