//! The crossing of `float_linear` and `float_embedding`.

use crate::instruction_set::current;
use crate::invalid;
use crate::tensors::{DType, Element, Tensor, empty};
use forebay_kernels_core::float_linear as core;
use half::bf16;
use pyo3::prelude::*;

/// A packed weight; lives outside torch, made once at load.
#[pyclass(frozen, module = "forebay_kernels._native")]
pub(crate) struct FloatWeight(Packed);

enum Packed {
    F32(core::PackedWeight<f32>),
    Bf16(core::PackedWeight<bf16>),
}

#[pymethods]
impl FloatWeight {
    /// Output features.
    #[getter]
    fn num_rows(&self) -> usize {
        match &self.0 {
            Packed::F32(weight) => weight.num_rows(),
            Packed::Bf16(weight) => weight.num_rows(),
        }
    }

    /// Input features.
    #[getter]
    fn num_columns(&self) -> usize {
        match &self.0 {
            Packed::F32(weight) => weight.num_columns(),
            Packed::Bf16(weight) => weight.num_columns(),
        }
    }
}

/// Packs a float32 or bfloat16 matrix.
#[pyfunction]
pub(crate) fn pack_float(py: Python<'_>, weight: &Bound<'_, PyAny>) -> PyResult<FloatWeight> {
    let weight = Tensor::new(weight, "weight")?;
    let [_, num_columns] = weight.shape()?;
    let packed = match weight.dtype() {
        DType::F32 => pack(py, weight.slice()?, num_columns).map(Packed::F32),
        DType::Bf16 => pack(py, weight.slice()?, num_columns).map(Packed::Bf16),
        _ => Err(weight.unexpected_dtype("float32 or bfloat16")),
    };
    packed.map(FloatWeight)
}

fn pack<T: core::Element>(py: Python<'_>, rows: &[T], num_columns: usize) -> PyResult<core::PackedWeight<T>> {
    py.detach(|| core::PackedWeight::new(rows, num_columns)).map_err(invalid)
}

/// `x @ weight.T`.
#[pyfunction]
pub(crate) fn float_linear<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weight: &Bound<'py, FloatWeight>,
) -> PyResult<Bound<'py, PyAny>> {
    let x = Tensor::new(x, "x")?;
    match &weight.get().0 {
        Packed::F32(weight) => multiply(py, &x, weight),
        Packed::Bf16(weight) => multiply(py, &x, weight),
    }
}

fn multiply<'py, T: core::Element + Element>(
    py: Python<'py>,
    x: &Tensor<'_>,
    weight: &core::PackedWeight<T>,
) -> PyResult<Bound<'py, PyAny>> {
    let [num_tokens, _] = x.shape()?;
    let result = empty(py, T::DTYPE, &[num_tokens, weight.num_rows()])?;
    let out = Tensor::new(&result, "out")?.slice_mut(&[x])?;
    let (x, set) = (x.rows::<T>()?, current());
    py.detach(|| core::float_linear(x, weight, out, set)).map_err(invalid)?;
    Ok(result)
}

/// `out[t] = weight[ids[t]]`.
#[pyfunction]
pub(crate) fn float_embedding<'py>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    weight: &Bound<'py, FloatWeight>,
) -> PyResult<Bound<'py, PyAny>> {
    let ids = Tensor::new(ids, "ids")?;
    match &weight.get().0 {
        Packed::F32(weight) => gather(py, &ids, weight),
        Packed::Bf16(weight) => gather(py, &ids, weight),
    }
}

fn gather<'py, T: core::Element + Element>(
    py: Python<'py>,
    ids: &Tensor<'_>,
    weight: &core::PackedWeight<T>,
) -> PyResult<Bound<'py, PyAny>> {
    let [num_tokens] = ids.shape()?;
    let out = empty(py, T::DTYPE, &[num_tokens, weight.num_columns()])?;
    let (rows, values) = (ids.slice()?, Tensor::new(&out, "out")?.slice_mut(&[])?);
    py.detach(|| core::float_embedding(rows, weight, values)).map_err(invalid)?;
    Ok(out)
}

/// Whether the instruction set in use multiplies bfloat16 itself.
#[pyfunction]
pub(crate) fn multiplies_bf16() -> bool {
    current().has_avx512_bf16()
}
