//! The crossing of `bf16_linear` and `bf16_embedding`.

use crate::instruction_set::current;
use crate::invalid;
use crate::tensors::{DType, Tensor, empty};
use forebay_kernels_core::bf16_linear as core;
use half::bf16;
use pyo3::prelude::*;

/// A packed weight; lives outside torch, made once at load.
#[pyclass(frozen, module = "forebay_kernels._native")]
pub(crate) struct Bf16Weight(core::PackedWeight);

#[pymethods]
impl Bf16Weight {
    /// Output features.
    #[getter]
    fn num_rows(&self) -> usize {
        self.0.num_rows()
    }

    /// Input features.
    #[getter]
    fn num_columns(&self) -> usize {
        self.0.num_columns()
    }
}

/// Packs a bfloat16 matrix.
#[pyfunction]
pub(crate) fn pack_bf16(py: Python<'_>, weight: &Bound<'_, PyAny>) -> PyResult<Bf16Weight> {
    let weight = Tensor::new(weight, "weight")?;
    let [_, num_columns] = weight.shape()?;
    let rows = weight.slice::<bf16>()?;
    py.detach(|| core::PackedWeight::new(rows, num_columns)).map(Bf16Weight).map_err(invalid)
}

/// `x @ weight.T`.
#[pyfunction]
pub(crate) fn bf16_linear<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weight: &Bound<'py, Bf16Weight>,
) -> PyResult<Bound<'py, PyAny>> {
    let (x, weight) = (Tensor::new(x, "x")?, &weight.get().0);
    let [num_tokens, _] = x.shape()?;
    let result = empty(py, DType::Bf16, &[num_tokens, weight.num_rows()])?;
    let out = Tensor::new(&result, "out")?.slice_mut(&[&x])?;
    let (x, set) = (x.rows::<bf16>()?, current());
    py.detach(|| core::bf16_linear(x, weight, out, set)).map_err(invalid)?;
    Ok(result)
}

/// `out[t] = weight[ids[t]]`.
#[pyfunction]
pub(crate) fn bf16_embedding<'py>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    weight: &Bound<'py, Bf16Weight>,
) -> PyResult<Bound<'py, PyAny>> {
    let (ids, weight) = (Tensor::new(ids, "ids")?, &weight.get().0);
    let [num_tokens] = ids.shape()?;
    let out = empty(py, DType::Bf16, &[num_tokens, weight.num_columns()])?;
    let (rows, values) = (ids.slice()?, Tensor::new(&out, "out")?.slice_mut(&[])?);
    py.detach(|| core::bf16_embedding(rows, weight, values)).map_err(invalid)?;
    Ok(out)
}

/// Whether the instruction set in use multiplies bfloat16 itself.
#[pyfunction]
pub(crate) fn multiplies_bf16() -> bool {
    current().has_avx512_bf16()
}
