//! CPU kernels on plain slices; one file an op.
//!
//! Every op takes an [`InstructionSet`], which can only be had for a set that the machine really has, and spreads its
//! work over the process's thread team ([`threads`]). Unsafe code lives in `simd/` and `threads/`, and at the places
//! where tasks of one op write disjoint parts of one output.

// What `InstructionSet::vectorize` runs must be inlined into it, or it is compiled for the baseline.
#![allow(clippy::inline_always)]

pub mod activation;
mod aligned;
mod elementary;
mod error;
mod float;
pub mod float_linear;
mod instruction_set;
pub mod paged_attention;
pub mod quantized_linear;
pub mod rms_norm;
pub mod rotary;
pub mod sampling_noise;
mod simd;
pub mod sublayers;
pub mod threads;
pub mod truncation;
mod views;

pub use error::KernelError;
pub use float::{Float, FloatKind};
pub use instruction_set::InstructionSet;
pub use views::{Rows, RowsMut};
