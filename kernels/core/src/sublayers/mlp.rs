//! `down(activation(gate(norm(h))) * up(norm(h)))` with `h = x + residual`.

use super::{NormedRows, Stream, TileTasks, WORKSPACE, check_count};
use crate::activation::{Activation, gelu, gelu_tanh, silu};
use crate::quantized_linear::{BLOCK, BlockSource, PackedWeight, Product, QuantizedActivations};
use crate::rms_norm::RmsNorm;
use crate::threads::{Phase, SharedOutput, parallel_phases, threads_for};
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
    fn check(&self) -> Result<(), KernelError> {
        check_count("gate_up", 2 * self.down.num_columns(), self.gate_up.num_rows())?;
        self.gate_up_bias.map_or(Ok(()), |bias| check_count("gate_up_bias", self.gate_up.num_rows(), bias.len()))
    }
}

/// Computes one feed-forward sublayer: `out` is contiguous `[stream.x.num_rows(), down.num_rows()]`, wholly overwritten.
///
/// Equal to `rms_norm`, `quantized_linear`, the bias, `gated_activation` and `quantized_linear` to the bit.
pub fn mlp_sublayer(
    stream: Stream<'_>,
    weights: MlpWeights<'_>,
    out: &mut [f32],
    set: InstructionSet,
) -> Result<(), KernelError> {
    let num_rows = stream.x.num_rows();
    stream.check(weights.gate_up.num_columns(), weights.norm)?;
    weights.check()?;
    check_count("out", num_rows * weights.down.num_rows(), out.len())?;
    let width = weights.gate_up.num_rows();
    WORKSPACE.with_borrow_mut(|workspace| {
        workspace.middle.resize(num_rows * width, 0.0);
        let middle = SharedOutput::new(&mut workspace.middle);
        let input = workspace.input.rows(num_rows, weights.gate_up.num_columns());
        let activated = workspace.output.rows(num_rows, weights.down.num_columns());
        let norm = NormedRows::new(stream, weights.norm, input, set);
        let gate_up = Product::new(input, weights.gate_up, middle, set);
        // One thread makes and quantizes about one value a nanosecond.
        let tasks = TileTasks::new(&activated, num_rows * width / 2);
        let gate = Gate { halves: middle, width, weights, activated, tasks, set };
        let down = Product::new(activated, weights.down, SharedOutput::new(out), set);
        #[allow(unsafe_code)]
        // SAFETY: each phase reads what the one before it has written, and the tasks of a phase write disjoint parts.
        let (norm_task, gate_up_task, gate_task, down_task) = (
            |task| unsafe { norm.run(task) },
            |task| unsafe { gate_up.run(task) },
            |task| unsafe { gate.run(task) },
            |task| unsafe { down.run(task) },
        );
        parallel_phases(
            threads_for(gate_up.nanoseconds() + down.nanoseconds()),
            &[
                Phase { num_tasks: norm.tasks.num_tasks(), task: &norm_task },
                Phase { num_tasks: gate_up.num_tasks(), task: &gate_up_task },
                Phase { num_tasks: tasks.num_tasks(), task: &gate_task },
                Phase { num_tasks: down.num_tasks(), task: &down_task },
            ],
        );
    });
    Ok(())
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
