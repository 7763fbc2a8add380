//! `forebay_kernels._native`: checks shape, dtype, contiguity and device, releases the GIL, calls the kernels.
//!
//! Python's side of each op (`forebay_kernels/ops/<op>.py`) holds its contract; here is only the crossing.

mod float_linear;
mod instruction_set;
mod layer_parts;
mod paged_attention;
mod quantized_linear;
mod sampling_noise;
mod sublayers;
mod tensors;
mod truncation;

use forebay_kernels_core::KernelError;
use pyo3::PyErr;
use pyo3::exceptions::PyValueError;

/// A kernel refuses only wrong arguments.
#[allow(clippy::needless_pass_by_value)] // the shape that `map_err` wants
fn invalid(error: KernelError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// The native half of `forebay_kernels`.
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::float_linear::{FloatWeight, float_embedding, float_linear, multiplies_bf16, pack_float};
    #[pymodule_export]
    use crate::instruction_set::{force_instruction_set, native_info};
    #[pymodule_export]
    use crate::layer_parts::{activation, gated_activation, rms_norm, rotary_write_kv};
    #[pymodule_export]
    use crate::paged_attention::{paged_attention, write_kv_cache};
    #[pymodule_export]
    use crate::quantized_linear::{
        PackedWeight, dequantize, grouped_linear, pack, quantized_embedding, quantized_linear,
    };
    #[pymodule_export]
    use crate::sampling_noise::{argmax, gumbel_argmax, token_logprobs};
    #[pymodule_export]
    use crate::sublayers::{AttentionSublayer, MlpSublayer, Sublayers};
    #[pymodule_export]
    use crate::truncation::{keep_window, kth_largest, mass_window, mean_logit};
}
