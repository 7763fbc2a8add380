//! `down(activation(gate(norm(h))) * up(norm(h)))` with `h = x + residual`.

use super::{Buffers, Inflow, NormedRows, Sizes, TileTasks, check_count};
use crate::activation::{Activation, gelu, gelu_tanh, silu};
use crate::quantized_linear::{BLOCK, BlockSource, PackedWeight, Product, QuantizedActivations};
use crate::rms_norm::RmsNorm;
use crate::threads::{Abandoned, Member, SharedOutput};
use crate::{InstructionSet, KernelError};

/// What is fixed of one layer.
#[derive(Debug, Clone, Copy)]
pub struct MlpWeights<'a> {
    /// Of the model's width.
    pub norm: RmsNorm<'a>,
    /// `[2 * inner width, model width]`, gate first.
    pub gate_up: &'a PackedWeight,
    /// Added to what `gate_up` gives.
    pub gate_up_bias: Option<&'a [f32]>,
    /// Of the gate.
    pub activation: Activation,
    /// `[model width, inner width]`.
    pub down: &'a PackedWeight,
}

impl MlpWeights<'_> {
    pub(super) fn check(&self) -> Result<(), KernelError> {
        check_count("norm_weight", self.gate_up.num_columns(), self.norm.weight.len())?;
        check_count("gate_up", 2 * self.down.num_columns(), self.gate_up.num_rows())?;
        self.gate_up_bias.map_or(Ok(()), |bias| check_count("gate_up_bias", self.gate_up.num_rows(), bias.len()))
    }

    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            input_columns: self.gate_up.num_columns(),
            middle_columns: self.gate_up.num_rows(),
            output_columns: self.down.num_columns(),
            ..Sizes::default()
        }
    }
}

/// A feed-forward layer cut into phases.
pub(super) struct MlpPhases<'a> {
    norm: NormedRows<'a>,
    gate_up: Product<'a>,
    gate: Gate<'a>,
    down: Product<'a>,
}

#[allow(unsafe_code)]
impl<'a> MlpPhases<'a> {
    pub(super) const NUM_PHASES: usize = 4;

    /// `weights` are checked; `out`: `[rows, weights.down.num_rows()]`.
    pub(super) fn new(
        weights: MlpWeights<'a>,
        (inflow, out): (Inflow<'a>, SharedOutput<'a, f32>),
        buffers: Buffers<'a>,
        set: InstructionSet,
    ) -> Self {
        let width = weights.gate_up.num_rows();
        let input = buffers.input.of_columns(weights.gate_up.num_columns());
        let activated = buffers.output.of_columns(weights.down.num_columns());
        // One thread makes and quantizes about one value a nanosecond.
        let tasks = TileTasks::new(&activated, inflow.num_rows * width / 2);
        Self {
            norm: NormedRows::new(inflow, weights.norm, input, set),
            gate_up: Product::new(input, weights.gate_up, buffers.middle, set),
            gate: Gate { halves: buffers.middle, width, weights, activated, tasks, set },
            down: Product::new(activated, weights.down, out, set),
        }
    }

    /// About how long one thread takes.
    pub(super) fn nanoseconds(&self) -> usize {
        self.gate_up.nanoseconds() + self.down.nanoseconds()
    }

    /// # Safety
    /// What enters is made by an earlier phase or given; nobody else uses the buffers or `out` meanwhile.
    pub(super) unsafe fn run(&self, member: &mut Member<'_>) -> Result<(), Abandoned> {
        // SAFETY: each phase reads what the one before has written, and the tasks of a phase write disjoint parts.
        unsafe {
            member.run(self.norm.tasks.num_tasks(), |task| self.norm.run(task))?;
            member.run(self.gate_up.num_tasks(), |task| self.gate_up.run(task))?;
            member.run(self.gate.tasks.num_tasks(), |task| self.gate.run(task))?;
            member.run(self.down.num_tasks(), |task| self.down.run(task))
        }
    }
}

/// The phase that activates the gate, multiplies, and quantizes the product.
struct Gate<'a> {
    /// `[rows, width]`.
    halves: SharedOutput<'a, f32>,
    width: usize,
    weights: MlpWeights<'a>,
    activated: QuantizedActivations<'a>,
    tasks: TileTasks,
    set: InstructionSet,
}

#[allow(unsafe_code)]
impl Gate<'_> {
    /// # Safety
    /// The halves are complete, and nobody else uses the activated rows during this phase.
    unsafe fn run(&self, task: usize) {
        // SAFETY: handed on from the caller.
        unsafe {
            match self.weights.activation {
                Activation::Silu => self.quantize(task, silu),
                Activation::Gelu => self.quantize(task, gelu),
                Activation::GeluTanh => self.quantize(task, gelu_tanh),
            }
        }
    }

    /// # Safety
    /// As [`Gate::run`].
    unsafe fn quantize(&self, task: usize, function: impl Fn(f32) -> f32) {
        let (tile, blocks) = self.tasks.of(task);
        let rows = self.activated.tile_rows(tile);
        // SAFETY: the caller's promise.
        let gate_up = unsafe { self.halves.read(rows.start * self.width, rows.len() * self.width) };
        let source =
            GatedRows { first_row: rows.start, width: self.width, gate_up, bias: self.weights.gate_up_bias, function };
        // SAFETY: a tile's blocks are in one task.
        unsafe { self.activated.quantize(tile, blocks, &source, self.set) };
    }
}

/// Rows of one tile.
struct GatedRows<'a, F> {
    first_row: usize,
    width: usize,
    gate_up: &'a [f32],
    bias: Option<&'a [f32]>,
    function: F,
}

impl<F: Fn(f32) -> f32> BlockSource for GatedRows<'_, F> {
    #[inline(always)]
    fn read(&self, row: usize, block: usize, values: &mut [f32; BLOCK]) {
        let half = |of: &[f32], start: usize| -> [f32; BLOCK] {
            let part = &of[start + block * BLOCK..][..BLOCK];
            std::array::from_fn(|i| part[i])
        };
        let start = (row - self.first_row) * self.width;
        let mut gate = half(self.gate_up, start);
        let mut up = half(self.gate_up, start + self.width / 2);
        if let Some(bias) = self.bias {
            let (gate_bias, up_bias) = (half(bias, 0), half(bias, self.width / 2));
            for i in 0..BLOCK {
                gate[i] += gate_bias[i];
                up[i] += up_bias[i];
            }
        }
        for i in 0..BLOCK {
            values[i] = (self.function)(gate[i]) * up[i];
        }
    }
}
