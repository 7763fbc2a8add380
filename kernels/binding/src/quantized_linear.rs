//! The crossing of `quantized_linear`, `dequantize`, `quantized_embedding`.

use crate::instruction_set::current;
use crate::invalid;
use crate::tensors::{DType, Tensor, empty};
use forebay_kernels_core::quantized_linear as core;
use half::bf16;
use pyo3::prelude::*;

/// A packed weight; lives outside torch, made once at load.
#[pyclass(frozen, module = "forebay_kernels._native")]
pub(crate) struct PackedWeight(pub(crate) core::PackedWeight);

#[pymethods]
impl PackedWeight {
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

    /// Memory that the weight takes.
    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.num_bytes()
    }
}

/// Packs `(uint8 [rows, row_bytes], type name)` segments one below the other.
#[pyfunction]
pub(crate) fn pack(py: Python<'_>, segments: &Bound<'_, PyAny>, num_columns: usize) -> PyResult<PackedWeight> {
    let segments: Vec<(Bound<'_, PyAny>, String)> = segments.extract()?;
    let mut parts = Vec::with_capacity(segments.len());
    for (tensor, name) in &segments {
        let block_type = core::BlockType::named(name).map_err(invalid)?;
        let tensor = Tensor::new(tensor, "segment")?;
        let [num_rows, _] = tensor.shape()?;
        tensor.expect_shape([num_rows, num_columns / block_type.num_columns() * block_type.file_bytes()])?;
        parts.push(core::Segment { blocks: tensor.slice()?, block_type });
    }
    py.detach(|| core::PackedWeight::new(&parts, num_columns)).map(PackedWeight).map_err(invalid)
}

/// `x @ weight.T`, into `out` or a new tensor.
#[pyfunction]
pub(crate) fn quantized_linear<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weight: &Bound<'py, PackedWeight>,
    out: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (x, weight) = (Tensor::new(x, "x")?, &weight.get().0);
    let [num_tokens, _] = x.shape()?;
    let result = out.map_or_else(|| empty(py, DType::F32, &[num_tokens, weight.num_rows()]), Ok)?;
    let out = Tensor::new(&result, "out")?;
    out.expect_shape([num_tokens, weight.num_rows()])?;
    let set = current();
    let y = out.slice_mut(&[&x])?;
    match x.dtype() {
        DType::F32 => {
            let x = x.rows::<f32>()?;
            py.detach(|| core::quantized_linear(x, weight, y, set))
        }
        DType::Bf16 => {
            let x = x.rows::<bf16>()?;
            py.detach(|| core::quantized_linear(x, weight, y, set))
        }
        _ => return Err(x.unexpected_dtype("float32 or bfloat16")),
    }
    .map_err(invalid)?;
    Ok(result)
}

/// Rows in groups that end at `ends`, each times its own weight.
#[pyfunction]
pub(crate) fn grouped_linear<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weights: &Bound<'py, PyAny>,
    ends: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let weights: Vec<Bound<'py, PackedWeight>> = weights.extract()?;
    let (x, ends) = (Tensor::new(x, "x")?, Tensor::new(ends, "ends")?);
    let [num_tokens, _] = x.shape()?;
    ends.expect_shape([weights.len()])?;
    let weights: Vec<&core::PackedWeight> = weights.iter().map(|weight| &weight.get().0).collect();
    let num_rows = weights.first().map_or(0, |weight| weight.num_rows());
    let result = empty(py, DType::F32, &[num_tokens, num_rows])?;
    let out = Tensor::new(&result, "out")?.slice_mut(&[&x])?;
    let (rows, ends, set) = (x.rows::<f32>()?, ends.slice::<i64>()?, current());
    py.detach(|| core::grouped_linear(rows, &weights, ends, out, set)).map_err(invalid)?;
    Ok(result)
}

/// The weight's values as float32 `[num_rows, num_columns]`.
#[pyfunction]
pub(crate) fn dequantize<'py>(py: Python<'py>, weight: &Bound<'py, PackedWeight>) -> PyResult<Bound<'py, PyAny>> {
    let weight = &weight.get().0;
    let out = empty(py, DType::F32, &[weight.num_rows(), weight.num_columns()])?;
    let values = Tensor::new(&out, "out")?.slice_mut(&[])?;
    py.detach(|| core::dequantize(weight, values)).map_err(invalid)?;
    Ok(out)
}

/// `out[t] = weight[ids[t]]`.
#[pyfunction]
pub(crate) fn quantized_embedding<'py>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    weight: &Bound<'py, PackedWeight>,
) -> PyResult<Bound<'py, PyAny>> {
    let (ids, weight) = (Tensor::new(ids, "ids")?, &weight.get().0);
    let [num_tokens] = ids.shape()?;
    let out = empty(py, DType::F32, &[num_tokens, weight.num_columns()])?;
    let (rows, values) = (ids.slice()?, Tensor::new(&out, "out")?.slice_mut(&[])?);
    py.detach(|| core::quantized_embedding(rows, weight, values)).map_err(invalid)?;
    Ok(out)
}
