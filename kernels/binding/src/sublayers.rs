//! The crossing of `MlpSublayer`, `AttentionSublayer` and `Sublayers`: what is fixed of layers is kept here, a call brings
//! the rest.

use crate::instruction_set::current;
use crate::invalid;
use crate::paged_attention::scoring;
use crate::quantized_linear::PackedWeight;
use crate::tensors::{DType, Element, Tensor, empty, refuse_overlaps, with_float};
use forebay_kernels_core::activation::Activation;
use forebay_kernels_core::paged_attention::{AttentionBatch, Scoring};
use forebay_kernels_core::rms_norm::RmsNorm;
use forebay_kernels_core::rotary::{CacheMut, RotaryTable};
use forebay_kernels_core::{Float, Rows, sublayers as core};
use pyo3::exceptions::{PyTypeError, PyValueError};
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
        run(py, &[(Half::Mlp(self), None)], (x, residual), None, &[])
    }
}

impl MlpSublayer {
    fn weights(&self) -> core::MlpWeights<'_> {
        core::MlpWeights {
            norm: self.norm.view(),
            gate_up: &self.gate_up.get().0,
            gate_up_bias: self.gate_up_bias.as_deref(),
            activation: self.activation,
            down: &self.down.get().0,
        }
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
        let tokens = Tokens::new([positions, slot_mapping, block_tables, context_lens, cu_seqlens_q])?;
        let memory = Memory::new(cos_sin_cache, key_cache, value_cache)?;
        run(py, &[(Half::Attention(self), None)], (x, residual), Some(&tokens), &[memory])
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

/// Several halves one after another.
#[pyclass(frozen, module = "forebay_kernels._native")]
pub(crate) struct Sublayers(Vec<(KeptHalf, Option<OutputStep>)>);

enum KeptHalf {
    Attention(Py<AttentionSublayer>),
    Mlp(Py<MlpSublayer>),
}

/// `(half, output_norm_weight, output_norm_eps, output_scale)`; the norm's weight or the scale is None, or both are.
type DescribedHalf<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>, f32, Option<f32>);

/// What follows a half.
enum OutputStep {
    Norm(Norm),
    Scale(f32),
}

#[pymethods]
impl Sublayers {
    #[new]
    fn new(halves: Vec<DescribedHalf<'_>>) -> PyResult<Self> {
        let kept = halves.into_iter().map(|(half, norm_weight, norm_eps, scale)| {
            let kept = if let Ok(attention) = half.cast::<AttentionSublayer>() {
                KeptHalf::Attention(attention.clone().unbind())
            } else if let Ok(mlp) = half.cast::<MlpSublayer>() {
                KeptHalf::Mlp(mlp.clone().unbind())
            } else {
                let message = format!("a half is `{}`, expected AttentionSublayer or MlpSublayer", half.get_type());
                return Err(PyTypeError::new_err(message));
            };
            let step = match norm_weight {
                Some(weight) => Some(OutputStep::Norm(Norm::new(&weight, "output_norm_weight", norm_eps)?)),
                None => scale.map(OutputStep::Scale),
            };
            Ok((kept, step))
        });
        Ok(Self(kept.collect::<PyResult<_>>()?))
    }

    /// `(result, x + residual)` of the last half; `memory` is `(cos_sin_cache, key_cache, value_cache)` of each attention.
    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)] // Python's call: it makes the list
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        residual: Option<&Bound<'py, PyAny>>,
        positions: &Bound<'py, PyAny>,
        slot_mapping: &Bound<'py, PyAny>,
        block_tables: &Bound<'py, PyAny>,
        context_lens: &Bound<'py, PyAny>,
        cu_seqlens_q: &Bound<'py, PyAny>,
        memory: Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)>,
    ) -> PyResult<Pair<'py>> {
        let halves: Vec<_> =
            self.0.iter().map(|(half, step)| (half.view(), step.as_ref().map(OutputStep::view))).collect();
        let tokens = Tokens::new([positions, slot_mapping, block_tables, context_lens, cu_seqlens_q])?;
        let memory: Vec<_> =
            memory.iter().map(|(angles, keys, values)| Memory::new(angles, keys, values)).collect::<PyResult<_>>()?;
        run(py, &halves, (x, residual), Some(&tokens), &memory)
    }
}

impl KeptHalf {
    fn view(&self) -> Half<'_> {
        match self {
            Self::Attention(attention) => Half::Attention(attention.get()),
            Self::Mlp(mlp) => Half::Mlp(mlp.get()),
        }
    }
}

impl OutputStep {
    fn view(&self) -> core::OutputStep<'_> {
        match self {
            Self::Norm(norm) => core::OutputStep::Norm(norm.view()),
            Self::Scale(factor) => core::OutputStep::Scale(*factor),
        }
    }
}

#[derive(Clone, Copy)]
enum Half<'a> {
    Attention(&'a AttentionSublayer),
    Mlp(&'a MlpSublayer),
}

/// What a step brings to all attention.
struct Tokens<'a> {
    positions: Tensor<'a>,
    slot_mapping: Tensor<'a>,
    block_tables: Tensor<'a>,
    context_lens: Tensor<'a>,
    cu_seqlens_q: Tensor<'a>,
}

impl<'a> Tokens<'a> {
    fn new(
        [positions, slot_mapping, block_tables, context_lens, cu_seqlens_q]: [&'a Bound<'_, PyAny>; 5],
    ) -> PyResult<Self> {
        let tokens = Self {
            positions: Tensor::new(positions, "positions")?,
            slot_mapping: Tensor::new(slot_mapping, "slot_mapping")?,
            block_tables: Tensor::new(block_tables, "block_tables")?,
            context_lens: Tensor::new(context_lens, "context_lens")?,
            cu_seqlens_q: Tensor::new(cu_seqlens_q, "cu_seqlens_q")?,
        };
        let [_, _] = tokens.block_tables.shape()?;
        Ok(tokens)
    }

    fn view(&self) -> PyResult<core::StepTokens<'a>> {
        let batch = AttentionBatch {
            block_tables: self.block_tables.rows()?,
            context_lens: self.context_lens.slice()?,
            cu_seqlens_q: self.cu_seqlens_q.slice()?,
        };
        Ok(core::StepTokens { positions: self.positions.slice()?, slot_mapping: self.slot_mapping.slice()?, batch })
    }

    fn tensors(&self) -> [&Tensor<'a>; 5] {
        [&self.positions, &self.slot_mapping, &self.block_tables, &self.context_lens, &self.cu_seqlens_q]
    }
}

/// For calls without attention.
fn no_tokens() -> core::StepTokens<'static> {
    let batch = AttentionBatch { block_tables: Rows::contiguous(&[], 1), context_lens: &[], cu_seqlens_q: &[0] };
    core::StepTokens { positions: &[], slot_mapping: &[], batch }
}

/// What one layer's attention reads and writes beside the stream.
struct Memory<'a> {
    angles: Tensor<'a>,
    keys: Tensor<'a>,
    values: Tensor<'a>,
}

impl<'a> Memory<'a> {
    fn new(angles: &'a Bound<'_, PyAny>, keys: &'a Bound<'_, PyAny>, values: &'a Bound<'_, PyAny>) -> PyResult<Self> {
        let memory = Self {
            angles: Tensor::new(angles, "cos_sin_cache")?,
            keys: Tensor::new(keys, "key_cache")?,
            values: Tensor::new(values, "value_cache")?,
        };
        memory.values.expect_shape(memory.keys.shape::<4>()?)?;
        Ok(memory)
    }

    /// No other tensor of the call may share memory with the caches.
    fn layer<C: Float + Element>(&self, weights: core::AttentionWeights<'a>) -> PyResult<core::AttentionLayer<'a, C>> {
        let [_, rotary_dim] = self.angles.shape()?;
        let (keys, values) = (self.keys.slice_mut::<C>(&[])?, self.values.slice_mut::<C>(&[])?);
        Ok(core::AttentionLayer {
            weights,
            table: RotaryTable { cos_sin: self.angles.slice()?, rotary_dim },
            cache: CacheMut { keys, values, shape: self.keys.shape()? },
        })
    }
}

/// `(result, x + residual)` of the last half; `memory` is that of the attention halves in their order.
fn run<'py>(
    py: Python<'py>,
    halves: &[(Half<'_>, Option<core::OutputStep<'_>>)],
    (x, residual): (&Bound<'py, PyAny>, Option<&Bound<'py, PyAny>>),
    tokens: Option<&Tokens<'_>>,
    memory: &[Memory<'_>],
) -> PyResult<Pair<'py>> {
    let num_attentions = halves.iter().filter(|(half, _)| matches!(half, Half::Attention(_))).count();
    if num_attentions != memory.len() {
        let message = format!("`memory` has {} entries, expected {num_attentions}", memory.len());
        return Err(PyValueError::new_err(message));
    }
    let x = Tensor::new(x, "x")?;
    let residual = residual.map(|residual| Tensor::new(residual, "residual")).transpose()?;
    let shape = x.shape::<2>()?;
    let read = tokens.into_iter().flat_map(Tokens::tensors).chain([&x]).chain(&residual);
    let tables = memory.iter().map(|memory| &memory.angles);
    let written = memory.iter().flat_map(|memory| [&memory.keys, &memory.values]);
    refuse_overlaps(written, read.chain(tables))?;
    let results = (empty(py, DType::F32, &shape)?, empty(py, DType::F32, &shape)?);
    let outputs = [Tensor::new(&results.0, "out")?, Tensor::new(&results.1, "sum")?];
    let stream =
        core::Stream { x: x.rows::<f32>()?, residual: residual.as_ref().map(Tensor::rows::<f32>).transpose()? };
    let tokens = tokens.map_or_else(|| Ok(no_tokens()), Tokens::view)?;
    match memory.first() {
        None => run_with::<f32>(py, halves, (&stream, tokens), memory, &outputs)?,
        Some(first) => with_float!(first.keys, C => {
            run_with::<C>(py, halves, (&stream, tokens), memory, &outputs)
        })?,
    }
    Ok(results)
}

/// With the caches' type known; nothing else of the call shares memory with them.
fn run_with<C: Float + Element>(
    py: Python<'_>,
    halves: &[(Half<'_>, Option<core::OutputStep<'_>>)],
    (stream, tokens): (&core::Stream<'_>, core::StepTokens<'_>),
    memory: &[Memory<'_>],
    [out, sum]: &[Tensor<'_>; 2],
) -> PyResult<()> {
    let mut memory = memory.iter();
    let mut sublayers = Vec::with_capacity(halves.len());
    for (half, output_step) in halves {
        let half = match half {
            Half::Mlp(mlp) => core::Half::Mlp(mlp.weights()),
            Half::Attention(attention) => {
                let Some(memory) = memory.next() else { break };
                core::Half::Attention(memory.layer::<C>(attention.weights())?)
            }
        };
        sublayers.push(core::Sublayer { half, output_step: *output_step });
    }
    let (out, sum, set) = (out.slice_mut::<f32>(&[])?, sum.slice_mut::<f32>(&[])?, current());
    py.detach(|| core::run_sublayers(stream, tokens, sublayers, (out, sum), set)).map_err(invalid)
}
