//! The crossing of `kth_largest`, `mass_window`, `keep_window`, `mean_logit`.

use crate::instruction_set::current;
use crate::invalid;
use crate::tensors::{DType, Tensor, empty};
use forebay_kernels_core::truncation as core;
use pyo3::prelude::*;

/// The k-th largest logit of each row.
#[pyfunction]
pub(crate) fn kth_largest<'py>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    ks: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (logits, ks) = (Tensor::new(logits, "logits")?, Tensor::new(ks, "ks")?);
    let [num_rows, _] = logits.shape()?;
    ks.expect_shape([num_rows])?;
    let out = empty(py, DType::F32, &[num_rows])?;
    let values = Tensor::new(&out, "out")?.slice_mut(&[])?;
    let (logits, ks, set) = (logits.rows()?, ks.slice()?, current());
    py.detach(|| core::kth_largest(logits, ks, values, set)).map_err(invalid)?;
    Ok(out)
}

/// Low and high end of what each row keeps.
#[pyfunction]
pub(crate) fn mass_window<'py>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    floors: &Bound<'py, PyAny>,
    centres: &Bound<'py, PyAny>,
    shares: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (logits, floors) = (Tensor::new(logits, "logits")?, Tensor::new(floors, "floors")?);
    let (centres, shares) = (Tensor::new(centres, "centres")?, Tensor::new(shares, "shares")?);
    let [num_rows, _] = logits.shape()?;
    for vector in [&floors, &centres, &shares] {
        vector.expect_shape([num_rows])?;
    }
    let out = empty(py, DType::F32, &[num_rows, 2])?;
    let (windows, _) = Tensor::new(&out, "out")?.slice_mut(&[])?.as_chunks_mut::<2>();
    let (logits, floors, set) = (logits.rows()?, floors.slice()?, current());
    let (centres, shares) = (centres.slice()?, shares.slice()?);
    py.detach(|| core::mass_window(logits, floors, centres, shares, windows, set)).map_err(invalid)?;
    Ok(out)
}

/// What each row leaves out becomes -inf, in place.
#[pyfunction]
pub(crate) fn keep_window(
    py: Python<'_>,
    logits: &Bound<'_, PyAny>,
    lows: &Bound<'_, PyAny>,
    highs: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (logits, lows) = (Tensor::new(logits, "logits")?, Tensor::new(lows, "lows")?);
    let highs = Tensor::new(highs, "highs")?;
    let [num_rows, _] = logits.shape()?;
    for vector in [&lows, &highs] {
        vector.expect_shape([num_rows])?;
    }
    let rows = logits.rows_mut::<f32>(&[], &[&lows, &highs])?;
    let (lows, highs, set) = (lows.slice()?, highs.slice()?, current());
    py.detach(|| core::keep_window(&rows, lows, highs, set)).map_err(invalid)
}

/// The mean logit of each row under its softmax.
#[pyfunction]
pub(crate) fn mean_logit<'py>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    floors: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (logits, floors) = (Tensor::new(logits, "logits")?, Tensor::new(floors, "floors")?);
    let [num_rows, _] = logits.shape()?;
    floors.expect_shape([num_rows])?;
    let out = empty(py, DType::F32, &[num_rows])?;
    let values = Tensor::new(&out, "out")?.slice_mut(&[])?;
    let (logits, floors, set) = (logits.rows()?, floors.slice()?, current());
    py.detach(|| core::mean_logit(logits, floors, values, set)).map_err(invalid)?;
    Ok(out)
}
