//! The crossing of `paged_attention` and `write_kv_cache`.

use crate::instruction_set::current;
use crate::invalid;
use crate::tensors::{Element, Tensor, empty, with_float};
use forebay_kernels_core::paged_attention as core;
use forebay_kernels_core::{Float, InstructionSet};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The tensors of one call, before their dtypes are known.
struct Call<'a> {
    q: Tensor<'a>,
    keys: Tensor<'a>,
    values: Tensor<'a>,
    block_tables: Tensor<'a>,
    context_lens: Tensor<'a>,
    cu_seqlens_q: Tensor<'a>,
    scoring: core::Scoring,
    set: InstructionSet,
}

/// Causal attention of chunks and decodes over a paged cache.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // Python's call; a struct would cost a class and an allocation a step
pub(crate) fn paged_attention<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    key_cache: &Bound<'py, PyAny>,
    value_cache: &Bound<'py, PyAny>,
    block_tables: &Bound<'py, PyAny>,
    context_lens: &Bound<'py, PyAny>,
    cu_seqlens_q: &Bound<'py, PyAny>,
    scale: f32,
    window: i64,
    softcap: f32,
) -> PyResult<Bound<'py, PyAny>> {
    let call = Call {
        q: Tensor::new(q, "q")?,
        keys: Tensor::new(key_cache, "key_cache")?,
        values: Tensor::new(value_cache, "value_cache")?,
        block_tables: Tensor::new(block_tables, "block_tables")?,
        context_lens: Tensor::new(context_lens, "context_lens")?,
        cu_seqlens_q: Tensor::new(cu_seqlens_q, "cu_seqlens_q")?,
        scoring: scoring(scale, window, softcap)?,
        set: current(),
    };
    with_float!(call.q, Q => with_float!(call.keys, C => call.run::<Q, C>(py)))
}

/// Python says 0 for none.
pub(crate) fn scoring(scale: f32, window: i64, softcap: f32) -> PyResult<core::Scoring> {
    let window = usize::try_from(window)
        .map_err(|_| PyValueError::new_err(format!("`window` is `{window}`, expected at least 1, or 0 for none")))?;
    Ok(core::Scoring {
        scale,
        softcap: (softcap.to_bits() != 0).then_some(softcap),
        window: (window != 0).then_some(window),
    })
}

impl Call<'_> {
    fn run<'py, Q: Float + Element, C: Float + Element>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let shape = self.keys.shape::<4>()?;
        self.values.expect_shape(shape)?;
        let [num_tokens, num_heads, _] = self.q.shape::<3>()?;
        self.q.expect_shape([num_tokens, num_heads, shape[3]])?;
        let [_, _] = self.block_tables.shape()?;
        let cache =
            core::PagedCache::new(self.keys.slice::<C>()?, self.values.slice::<C>()?, shape).map_err(invalid)?;
        let batch = core::AttentionBatch {
            block_tables: self.block_tables.rows::<i32>()?,
            context_lens: self.context_lens.slice::<i32>()?,
            cu_seqlens_q: self.cu_seqlens_q.slice::<i32>()?,
        };
        let q = self.q.rows::<Q>()?;
        let result = empty(py, Q::DTYPE, &[num_tokens, num_heads, shape[3]])?;
        let out = Tensor::new(&result, "out")?.slice_mut::<Q>(&[])?;
        let (scoring, set) = (self.scoring, self.set);
        py.detach(|| core::paged_attention(q, &cache, &batch, scoring, out, set)).map_err(invalid)?;
        Ok(result)
    }
}

/// Copies keys and values of the step's tokens to their slots.
#[pyfunction]
pub(crate) fn write_kv_cache(
    py: Python<'_>,
    key: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
    key_cache: &Bound<'_, PyAny>,
    value_cache: &Bound<'_, PyAny>,
    slot_mapping: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (key, value) = (Tensor::new(key, "key")?, Tensor::new(value, "value")?);
    let keys = Tensor::new(key_cache, "key_cache")?;
    let values = Tensor::new(value_cache, "value_cache")?;
    let slots = Tensor::new(slot_mapping, "slot_mapping")?;
    let shape = keys.shape::<4>()?;
    let [num_tokens] = slots.shape()?;
    values.expect_shape(shape)?;
    for side in [&key, &value] {
        side.expect_shape([num_tokens, shape[1], shape[3]])?;
    }
    let slot_mapping = slots.slice::<i64>()?;
    with_float!(key, T => with_float!(keys, C => {
        let rows = [key.rows::<T>()?, value.rows::<T>()?];
        let caches = [
            keys.slice_mut::<C>(&[&key, &value, &values, &slots])?,
            values.slice_mut::<C>(&[&key, &value, &keys, &slots])?,
        ];
        let set = current();
        py.detach(|| core::write_kv_cache(rows, caches, shape, slot_mapping, set)).map_err(invalid)
    }))
}
