//! The crossing of `gumbel_argmax`, `token_logprobs`, `logsumexp`.

use crate::instruction_set::current;
use crate::invalid;
use crate::tensors::Tensor;
use forebay_kernels_core::sampling_noise as core;
use pyo3::prelude::*;

/// Draws one token a row.
#[pyfunction]
pub(crate) fn gumbel_argmax(
    py: Python<'_>,
    logits: &Bound<'_, PyAny>,
    seeds: &Bound<'_, PyAny>,
    positions: &Bound<'_, PyAny>,
    ids: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (logits, seeds) = (Tensor::new(logits, "logits")?, Tensor::new(seeds, "seeds")?);
    let (positions, ids) = (Tensor::new(positions, "positions")?, Tensor::new(ids, "ids")?);
    let [num_rows, _] = logits.shape()?;
    for vector in [&seeds, &positions, &ids] {
        vector.expect_shape([num_rows])?;
    }
    let out = ids.slice_mut(&[&logits, &seeds, &positions])?;
    let (logits, seeds, positions, set) = (logits.rows()?, seeds.slice()?, positions.slice()?, current());
    py.detach(|| core::gumbel_argmax(logits, seeds, positions, out, set)).map_err(invalid)
}

/// The log-probability of one token a row.
#[pyfunction]
pub(crate) fn token_logprobs(
    py: Python<'_>,
    logits: &Bound<'_, PyAny>,
    ids: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (logits, ids, out) = (Tensor::new(logits, "logits")?, Tensor::new(ids, "ids")?, Tensor::new(out, "out")?);
    let [num_rows, _] = logits.shape()?;
    ids.expect_shape([num_rows])?;
    out.expect_shape([num_rows])?;
    let values = out.slice_mut(&[&logits, &ids])?;
    let (logits, ids, set) = (logits.rows()?, ids.slice()?, current());
    py.detach(|| core::token_logprobs(logits, ids, values, set)).map_err(invalid)
}

/// `ln(sum(e^logit))` of each row.
#[pyfunction]
pub(crate) fn logsumexp(py: Python<'_>, logits: &Bound<'_, PyAny>, out: &Bound<'_, PyAny>) -> PyResult<()> {
    let (logits, out) = (Tensor::new(logits, "logits")?, Tensor::new(out, "out")?);
    let [num_rows, _] = logits.shape()?;
    out.expect_shape([num_rows])?;
    let values = out.slice_mut(&[&logits])?;
    let (logits, set) = (logits.rows()?, current());
    py.detach(|| core::logsumexp(logits, values, set)).map_err(invalid)
}
