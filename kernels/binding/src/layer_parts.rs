//! The crossing of the small ops between a layer's matrix products: `rms_norm`, `rotary_write_kv`, `activation`, `gated_activation`.

use crate::instruction_set::current;
use crate::invalid;
use crate::tensors::{DType, Element, Tensor, empty, with_float};
use forebay_kernels_core::activation::{self as core_activation, Activation};
use forebay_kernels_core::rotary::{CacheMut, RotaryInputs, RotaryTable};
use forebay_kernels_core::{Float, rms_norm as core_rms_norm, rotary};
use pyo3::prelude::*;

type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// `(normalized, x + residual)`; without a residual the second is `x` itself.
#[pyfunction]
pub(crate) fn rms_norm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weight: &Bound<'py, PyAny>,
    eps: f32,
    residual: Option<&Bound<'py, PyAny>>,
) -> PyResult<Pair<'py>> {
    let (input, weight) = (Tensor::new(x, "x")?, Tensor::new(weight, "weight")?);
    let shape = input.sizes();
    let (2..=3, Some(width)) = (shape.len(), shape.last()) else {
        return Err(input.unexpected_shape("2 or 3 dimensions"));
    };
    weight.expect_shape([*width])?;
    let out = empty(py, input.dtype(), shape)?;
    let sum = if residual.is_some() { empty(py, input.dtype(), shape)? } else { x.clone() };
    let outputs = [Tensor::new(&out, "out")?, Tensor::new(&sum, "sum")?];
    let residual = residual.map(|residual| Tensor::new(residual, "residual")).transpose()?;
    if let Some(residual) = residual.as_ref().filter(|residual| residual.sizes() != shape) {
        return Err(residual.unexpected_shape(&format!("{shape:?}")));
    }
    with_float!(input, T => with_float!(weight, W => {
        normalize::<T, W>(py, &input, (&weight, eps), residual.as_ref(), &outputs)
    }))?;
    Ok((out, sum))
}

fn normalize<T: Float + Element, W: Float + Element>(
    py: Python<'_>,
    x: &Tensor<'_>,
    (weight, eps): (&Tensor<'_>, f32),
    residual: Option<&Tensor<'_>>,
    [out, sum]: &[Tensor<'_>; 2],
) -> PyResult<()> {
    let (x, weight, out, set) = (x.rows::<T>()?, weight.slice::<W>()?, out.slice_mut::<T>(&[])?, current());
    let residual = match residual {
        Some(residual) => Some((residual.rows::<T>()?, sum.slice_mut::<T>(&[])?)),
        None => None,
    };
    py.detach(|| core_rms_norm::rms_norm(x, weight, eps, residual, out, set)).map_err(invalid)
}

/// The activation of each element.
#[pyfunction]
pub(crate) fn activation<'py>(py: Python<'py>, x: &Bound<'py, PyAny>, kind: &str) -> PyResult<Bound<'py, PyAny>> {
    let (x, kind) = (Tensor::new(x, "x")?, Activation::named(kind).map_err(invalid)?);
    let result = empty(py, x.dtype(), &x.shape::<2>()?)?;
    let out = Tensor::new(&result, "out")?;
    with_float!(x, T => {
        let (x, out, set) = (x.rows::<T>()?, out.slice_mut::<T>(&[])?, current());
        py.detach(|| core_activation::activation(x, kind, out, set)).map_err(invalid)
    })?;
    Ok(result)
}

/// `activation(gate) * up` of rows that hold both.
#[pyfunction]
pub(crate) fn gated_activation<'py>(
    py: Python<'py>,
    gate_up: &Bound<'py, PyAny>,
    kind: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let kind = Activation::named(kind).map_err(invalid)?;
    let gate_up = Tensor::new(gate_up, "gate_up")?;
    let [num_tokens, width] = gate_up.shape()?;
    let result = empty(py, gate_up.dtype(), &[num_tokens, width / 2])?;
    let out = Tensor::new(&result, "out")?;
    with_float!(gate_up, T => {
        let (x, out, set) = (gate_up.rows::<T>()?, out.slice_mut::<T>(&[])?, current());
        py.detach(|| core_activation::gated_activation(x, kind, out, set)).map_err(invalid)
    })?;
    Ok(result)
}

/// The tensors of one rotation, before their dtypes are known.
struct Rotation<'a> {
    q: Tensor<'a>,
    k: Tensor<'a>,
    v: Tensor<'a>,
    cos_sin_cache: Tensor<'a>,
    positions: Tensor<'a>,
    key_cache: Tensor<'a>,
    value_cache: Tensor<'a>,
    slot_mapping: Tensor<'a>,
}

/// Rotates queries and keys in place and writes keys and values to the cache.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // Python's call; a struct would cost a class and an allocation a step
pub(crate) fn rotary_write_kv<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    cos_sin_cache: &Bound<'py, PyAny>,
    positions: &Bound<'py, PyAny>,
    key_cache: &Bound<'py, PyAny>,
    value_cache: &Bound<'py, PyAny>,
    slot_mapping: &Bound<'py, PyAny>,
) -> PyResult<()> {
    let rotation = Rotation {
        q: Tensor::new(q, "q")?,
        k: Tensor::new(k, "k")?,
        v: Tensor::new(v, "v")?,
        cos_sin_cache: Tensor::new(cos_sin_cache, "cos_sin_cache")?,
        positions: Tensor::new(positions, "positions")?,
        key_cache: Tensor::new(key_cache, "key_cache")?,
        value_cache: Tensor::new(value_cache, "value_cache")?,
        slot_mapping: Tensor::new(slot_mapping, "slot_mapping")?,
    };
    rotation.check()?;
    with_float!(rotation.q, T => with_float!(rotation.key_cache, C => rotation.run::<T, C>(py)))
}

impl Rotation<'_> {
    fn check(&self) -> PyResult<()> {
        let [num_tokens] = self.positions.shape()?;
        let shape = self.key_cache.shape::<4>()?;
        let [_, num_heads, _] = self.q.shape()?;
        self.q.expect_shape([num_tokens, num_heads, shape[3]])?;
        self.k.expect_shape([num_tokens, shape[1], shape[3]])?;
        self.v.expect_shape([num_tokens, shape[1], shape[3]])?;
        self.value_cache.expect_shape(shape)?;
        self.slot_mapping.expect_shape([num_tokens])?;
        let [_, _] = self.cos_sin_cache.shape()?;
        if self.cos_sin_cache.dtype() != DType::F32 {
            return Err(self.cos_sin_cache.unexpected_dtype("float32"));
        }
        Ok(())
    }

    fn run<T: Float + Element, C: Float + Element>(&self, py: Python<'_>) -> PyResult<()> {
        let read = [&self.positions, &self.slot_mapping, &self.cos_sin_cache];
        let others = [&self.key_cache, &self.value_cache, read[0], read[1], read[2]];
        let inputs = RotaryInputs {
            queries: self.q.rows_mut::<T>(&[&self.k, &self.v], &others)?,
            keys: self.k.rows_mut::<T>(&[&self.q, &self.v], &others)?,
            values: self.v.rows_mut::<T>(&[&self.q, &self.k], &others)?,
            positions: self.positions.slice()?,
            slot_mapping: self.slot_mapping.slice()?,
        };
        let [_, rotary_dim] = self.cos_sin_cache.shape()?;
        let table = RotaryTable { cos_sin: self.cos_sin_cache.slice()?, rotary_dim };
        let cache = CacheMut {
            keys: self.key_cache.slice_mut::<C>(&[&self.value_cache, read[0], read[1], read[2]])?,
            values: self.value_cache.slice_mut::<C>(&read)?,
            shape: self.key_cache.shape()?,
        };
        let set = current();
        py.detach(|| rotary::rotary_write_kv(&inputs, table, cache, set)).map_err(invalid)
    }
}
