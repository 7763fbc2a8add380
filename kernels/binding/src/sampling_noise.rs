//! The crossing of `gumbel_argmax`, `argmax`, `token_logprobs`.

use crate::instruction_set::current;
use crate::invalid;
use crate::tensors::{DType, Tensor, empty};
use forebay_kernels_core::sampling_noise as core;
use pyo3::prelude::*;

/// Draws one token a row.
#[pyfunction]
pub(crate) fn gumbel_argmax<'py>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    seeds: &Bound<'py, PyAny>,
    positions: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (logits, seeds) = (Tensor::new(logits, "logits")?, Tensor::new(seeds, "seeds")?);
    let positions = Tensor::new(positions, "positions")?;
    let [num_rows, _] = logits.shape()?;
    for vector in [&seeds, &positions] {
        vector.expect_shape([num_rows])?;
    }
    let ids = empty(py, DType::I64, &[num_rows])?;
    let out = Tensor::new(&ids, "ids")?.slice_mut(&[])?;
    let (logits, seeds, positions, set) = (logits.rows()?, seeds.slice()?, positions.slice()?, current());
    py.detach(|| core::gumbel_argmax(logits, seeds, positions, out, set)).map_err(invalid)?;
    Ok(ids)
}

/// The best token of each row.
#[pyfunction]
pub(crate) fn argmax<'py>(py: Python<'py>, logits: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let logits = Tensor::new(logits, "logits")?;
    let [num_rows, _] = logits.shape()?;
    let ids = empty(py, DType::I64, &[num_rows])?;
    let out = Tensor::new(&ids, "ids")?.slice_mut(&[])?;
    let (logits, set) = (logits.rows()?, current());
    py.detach(|| core::argmax(logits, out, set)).map_err(invalid)?;
    Ok(ids)
}

/// The log-probability of one token a row.
#[pyfunction]
pub(crate) fn token_logprobs<'py>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    ids: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (logits, ids) = (Tensor::new(logits, "logits")?, Tensor::new(ids, "ids")?);
    let [num_rows, _] = logits.shape()?;
    ids.expect_shape([num_rows])?;
    let out = empty(py, DType::F32, &[num_rows])?;
    let values = Tensor::new(&out, "out")?.slice_mut(&[])?;
    let (logits, ids, set) = (logits.rows()?, ids.slice()?, current());
    py.detach(|| core::token_logprobs(logits, ids, values, set)).map_err(invalid)?;
    Ok(out)
}
