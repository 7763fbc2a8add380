//! The crossing of `MlpSublayer` and `AttentionSublayer`: what is fixed of a layer is kept here, a call brings the rest.

use crate::instruction_set::current;
use crate::invalid;
use crate::paged_attention::scoring;
use crate::quantized_linear::PackedWeight;
use crate::tensors::{DType, Element, Tensor, empty, with_float};
use forebay_kernels_core::activation::Activation;
use forebay_kernels_core::paged_attention::{AttentionBatch, Scoring};
use forebay_kernels_core::rms_norm::RmsNorm;
use forebay_kernels_core::rotary::{CacheMut, RotaryTable};
use forebay_kernels_core::{Float, sublayers as core};
use pyo3::prelude::*;

type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// A norm's weight, copied, and its epsilon.
struct Norm {
    weight: Vec<f32>,
    eps: f32,
}

impl Norm {
    fn new(weight: &Bound<'_, PyAny>, name: &'static str, eps: f32) -> PyResult<Self> {
        Ok(Self { weight: vector(weight, name)?, eps })
    }

    fn view(&self) -> RmsNorm<'_> {
        RmsNorm { weight: &self.weight, eps: self.eps }
    }
}

fn vector(values: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Vec<f32>> {
    let values = Tensor::new(values, name)?;
    let [_] = values.shape()?;
    Ok(values.slice::<f32>()?.to_vec())
}

/// What enters a sublayer, and the tensors that it returns.
struct Call<'a> {
    x: Tensor<'a>,
    residual: Option<Tensor<'a>>,
    out: Tensor<'a>,
    sum: Tensor<'a>,
}

impl<'a> Call<'a> {
    fn new(
        x: &'a Bound<'_, PyAny>,
        residual: Option<&'a Bound<'_, PyAny>>,
        (out, sum): &'a Pair<'_>,
    ) -> PyResult<Self> {
        let residual = residual.map(|residual| Tensor::new(residual, "residual")).transpose()?;
        let call =
            Self { x: Tensor::new(x, "x")?, residual, out: Tensor::new(out, "out")?, sum: Tensor::new(sum, "sum")? };
        if let Some(residual) = &call.residual {
            residual.expect_shape(call.x.shape::<2>()?)?;
        }
        Ok(call)
    }

    fn stream(&self) -> PyResult<core::Stream<'_>> {
        let residual = match &self.residual {
            Some(residual) => Some((residual.rows::<f32>()?, self.sum.slice_mut::<f32>(&[])?)),
            None => None,
        };
        Ok(core::Stream { x: self.x.rows::<f32>()?, residual })
    }
}

/// New tensors for the result and the sum; without a residual the sum is `x` itself.
fn results<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    residual: Option<&Bound<'py, PyAny>>,
    num_rows: usize,
) -> PyResult<Pair<'py>> {
    let input = Tensor::new(x, "x")?;
    let [num_tokens, width] = input.shape()?;
    let out = empty(py, DType::F32, &[num_tokens, num_rows])?;
    let sum = if residual.is_some() { empty(py, DType::F32, &[num_tokens, width])? } else { x.clone() };
    Ok((out, sum))
}

/// One layer's feed-forward half.
#[pyclass(frozen, module = "forebay_kernels._native")]
pub(crate) struct MlpSublayer {
    norm: Norm,
    gate_up: Py<PackedWeight>,
    gate_up_bias: Option<Vec<f32>>,
    activation: Activation,
    down: Py<PackedWeight>,
}

#[pymethods]
impl MlpSublayer {
    #[new]
    fn new(
        norm_weight: &Bound<'_, PyAny>,
        norm_eps: f32,
        gate_up: Py<PackedWeight>,
        gate_up_bias: Option<&Bound<'_, PyAny>>,
        kind: &str,
        down: Py<PackedWeight>,
    ) -> PyResult<Self> {
        Ok(Self {
            norm: Norm::new(norm_weight, "norm_weight", norm_eps)?,
            gate_up,
            gate_up_bias: gate_up_bias.map(|bias| vector(bias, "gate_up_bias")).transpose()?,
            activation: Activation::named(kind).map_err(invalid)?,
            down,
        })
    }

    /// `(result, x + residual)`.
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        residual: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Pair<'py>> {
        let weights = core::MlpWeights {
            norm: self.norm.view(),
            gate_up: &self.gate_up.get().0,
            gate_up_bias: self.gate_up_bias.as_deref(),
            activation: self.activation,
            down: &self.down.get().0,
        };
        let results = results(py, x, residual, weights.down.num_rows())?;
        let call = Call::new(x, residual, &results)?;
        let (stream, out, set) = (call.stream()?, call.out.slice_mut::<f32>(&[])?, current());
        py.detach(|| core::mlp_sublayer(stream, weights, out, set)).map_err(invalid)?;
        Ok(results)
    }
}

/// One layer's attention half.
#[pyclass(frozen, module = "forebay_kernels._native")]
pub(crate) struct AttentionSublayer {
    norm: Norm,
    qkv: Py<PackedWeight>,
    qkv_bias: Option<Vec<f32>>,
    head_norms: Option<[Norm; 2]>,
    output: Py<PackedWeight>,
    scoring: Scoring,
}

#[pymethods]
impl AttentionSublayer {
    #[new]
    #[allow(clippy::too_many_arguments)] // Python's call, once a layer
    fn new(
        norm_weight: &Bound<'_, PyAny>,
        norm_eps: f32,
        qkv: Py<PackedWeight>,
        qkv_bias: Option<&Bound<'_, PyAny>>,
        query_norm_weight: Option<&Bound<'_, PyAny>>,
        key_norm_weight: Option<&Bound<'_, PyAny>>,
        output: Py<PackedWeight>,
        scale: f32,
        window: i64,
        softcap: f32,
    ) -> PyResult<Self> {
        let head_norms = match (query_norm_weight, key_norm_weight) {
            (Some(query), Some(key)) => {
                Some([Norm::new(query, "query_norm_weight", norm_eps)?, Norm::new(key, "key_norm_weight", norm_eps)?])
            }
            _ => None,
        };
        Ok(Self {
            norm: Norm::new(norm_weight, "norm_weight", norm_eps)?,
            qkv,
            qkv_bias: qkv_bias.map(|bias| vector(bias, "qkv_bias")).transpose()?,
            head_norms,
            output,
            scoring: scoring(scale, window, softcap)?,
        })
    }

    /// `(result, x + residual)`; writes the tokens' keys and values into the cache.
    #[allow(clippy::too_many_arguments)] // Python's call; a struct would cost a class and an allocation a step
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        residual: Option<&Bound<'py, PyAny>>,
        cos_sin_cache: &Bound<'py, PyAny>,
        positions: &Bound<'py, PyAny>,
        key_cache: &Bound<'py, PyAny>,
        value_cache: &Bound<'py, PyAny>,
        slot_mapping: &Bound<'py, PyAny>,
        block_tables: &Bound<'py, PyAny>,
        context_lens: &Bound<'py, PyAny>,
        cu_seqlens_q: &Bound<'py, PyAny>,
    ) -> PyResult<Pair<'py>> {
        let results = results(py, x, residual, self.output.get().0.num_rows())?;
        let step = Step {
            call: Call::new(x, residual, &results)?,
            cos_sin_cache: Tensor::new(cos_sin_cache, "cos_sin_cache")?,
            positions: Tensor::new(positions, "positions")?,
            key_cache: Tensor::new(key_cache, "key_cache")?,
            value_cache: Tensor::new(value_cache, "value_cache")?,
            slot_mapping: Tensor::new(slot_mapping, "slot_mapping")?,
            block_tables: Tensor::new(block_tables, "block_tables")?,
            context_lens: Tensor::new(context_lens, "context_lens")?,
            cu_seqlens_q: Tensor::new(cu_seqlens_q, "cu_seqlens_q")?,
        };
        with_float!(step.key_cache, C => step.run::<C>(py, self.weights()))?;
        Ok(results)
    }
}

impl AttentionSublayer {
    fn weights(&self) -> core::AttentionWeights<'_> {
        core::AttentionWeights {
            norm: self.norm.view(),
            qkv: &self.qkv.get().0,
            qkv_bias: self.qkv_bias.as_deref(),
            head_norms: self.head_norms.as_ref().map(|norms| norms.each_ref().map(Norm::view)),
            output: &self.output.get().0,
            scoring: self.scoring,
        }
    }
}

/// The tensors of one call, before the cache's dtype is known.
struct Step<'a> {
    call: Call<'a>,
    cos_sin_cache: Tensor<'a>,
    positions: Tensor<'a>,
    key_cache: Tensor<'a>,
    value_cache: Tensor<'a>,
    slot_mapping: Tensor<'a>,
    block_tables: Tensor<'a>,
    context_lens: Tensor<'a>,
    cu_seqlens_q: Tensor<'a>,
}

impl Step<'_> {
    fn run<C: Float + Element>(&self, py: Python<'_>, weights: core::AttentionWeights<'_>) -> PyResult<()> {
        let shape = self.key_cache.shape::<4>()?;
        self.value_cache.expect_shape(shape)?;
        let [_, rotary_dim] = self.cos_sin_cache.shape()?;
        let [_, _] = self.block_tables.shape()?;
        let read = [&self.call.x, &self.cos_sin_cache, &self.positions, &self.slot_mapping, &self.block_tables];
        let others = [&self.context_lens, &self.cu_seqlens_q, &self.value_cache];
        let inputs = core::AttentionInputs {
            stream: self.call.stream()?,
            table: RotaryTable { cos_sin: self.cos_sin_cache.slice()?, rotary_dim },
            positions: self.positions.slice()?,
            slot_mapping: self.slot_mapping.slice()?,
            cache: CacheMut {
                keys: self.key_cache.slice_mut::<C>(&[&read[..], &others[..]].concat())?,
                values: self.value_cache.slice_mut::<C>(&[&read[..], &others[..2]].concat())?,
                shape,
            },
            batch: AttentionBatch {
                block_tables: self.block_tables.rows()?,
                context_lens: self.context_lens.slice()?,
                cu_seqlens_q: self.cu_seqlens_q.slice()?,
            },
        };
        let (out, set) = (self.call.out.slice_mut::<f32>(&[])?, current());
        py.detach(|| core::attention_sublayer(inputs, weights, out, set)).map_err(invalid)
    }
}
