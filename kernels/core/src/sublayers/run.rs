//! Halves one after another: checked, cut into phases, and run in one region.

use super::attention::{AttentionLayer, AttentionPhases};
use super::mlp::{MlpPhases, MlpWeights};
use super::{Buffers, Inflow, Sizes, StepTokens, Stream, StreamRows, WORKSPACE, check_count, check_length};
use crate::paged_attention::Schedule;
use crate::rms_norm::RmsNorm;
use crate::threads::{Abandoned, Member, SharedOutput, parallel_region, run_length, threads_for};
use crate::{Float, InstructionSet, KernelError};

/// What a half computes of the normalized stream.
pub enum Half<'a, C> {
    /// Attention over the paged cache.
    Attention(AttentionLayer<'a, C>),
    /// A gated feed-forward layer.
    Mlp(MlpWeights<'a>),
}

/// What is done with a half's output before it is added to the stream.
#[derive(Debug, Clone, Copy)]
pub enum OutputStep<'a> {
    /// A norm: Gemma 2's. Source: arXiv 2408.00118.
    Norm(RmsNorm<'a>),
    /// A factor: Granite's. Source: arXiv 2408.13359.
    Scale(f32),
}

/// One half.
pub struct Sublayer<'a, C> {
    /// What it computes.
    pub half: Half<'a, C>,
    /// What follows.
    pub output_step: Option<OutputStep<'a>>,
}

impl<C> Sublayer<'_, C> {
    /// Width of the rows that enter, and of those that leave.
    fn widths(&self) -> (usize, usize) {
        match &self.half {
            Half::Attention(layer) => (layer.weights.qkv.num_columns(), layer.weights.output.num_rows()),
            Half::Mlp(weights) => (weights.gate_up.num_columns(), weights.down.num_rows()),
        }
    }

    fn check(&self, num_rows: usize, tokens: &StepTokens<'_>) -> Result<(), KernelError> {
        match &self.half {
            Half::Attention(layer) => {
                check_count("x", tokens.positions.len(), num_rows)?;
                layer.check(tokens)?;
            }
            Half::Mlp(weights) => weights.check()?,
        }
        match self.output_step {
            Some(OutputStep::Norm(norm)) => check_count("output_norm", self.widths().1, norm.weight.len()),
            _ => Ok(()),
        }
    }
}

/// Computes halves of decoder layers one after another: each takes the last one's output, adds it to the residual
/// stream, and computes its own output of the normalized sum. Without a residual the first half's input is the stream.
///
/// `out` is the last one's output, not yet added, and `sum` the stream that it was computed from: both contiguous, of x's
/// shape, and wholly overwritten.
///
/// Equal to the bit to the ops that halves are made of, one after another: `rms_norm`, `quantized_linear`, the bias, the
/// heads' norms, `rotary_write_kv`, `paged_attention` and `quantized_linear`; or `rms_norm`, `quantized_linear`, the bias,
/// `gated_activation` and `quantized_linear`; then the output's step.
pub fn run_sublayers<C: Float>(
    stream: &Stream<'_>,
    tokens: StepTokens<'_>,
    sublayers: Vec<Sublayer<'_, C>>,
    (out, sum): (&mut [f32], &mut [f32]),
    set: InstructionSet,
) -> Result<(), KernelError> {
    let (num_rows, width) = (stream.x.num_rows(), stream.x.row_length());
    check(stream, &tokens, &sublayers, (out.len(), sum.len()))?;
    if sublayers.len() == 1 && stream.residual.is_none() {
        sum.chunks_exact_mut(width).enumerate().for_each(|(row, sum)| sum.copy_from_slice(stream.x.row(row)));
    }
    let schedules = Schedules::new(&sublayers, &tokens)?;
    WORKSPACE.with_borrow_mut(|workspace| {
        let sizes = sublayers.iter().map(|sublayer| schedules.sizes(sublayer)).fold(Sizes::default(), Sizes::largest);
        let (buffers, spare) = workspace.buffers(num_rows, width, sizes);
        let flow = Flow::new(stream, SharedOutput::new(out), [spare, SharedOutput::new(sum)], sublayers.len());
        let stages: Vec<Stage<'_, C>> = sublayers
            .into_iter()
            .enumerate()
            .map(|(index, sublayer)| {
                Stage::new(sublayer, tokens, &schedules, (flow.inflow(index), flow.out), buffers, set)
            })
            .collect();
        let nanoseconds = stages.iter().map(Stage::nanoseconds).sum();
        let num_phases = stages.iter().map(Stage::num_phases).sum();
        parallel_region(threads_for(nanoseconds), num_phases, |member| {
            #[allow(unsafe_code)]
            // SAFETY: the buffers, the caches and the outputs belong to this call; a stage's phases follow those of the
            // one before, and its sum goes where no later phase of the last one reads.
            stages.iter().try_for_each(|stage| unsafe { stage.run(member) })
        });
    });
    Ok(())
}

fn check<C>(
    stream: &Stream<'_>,
    tokens: &StepTokens<'_>,
    sublayers: &[Sublayer<'_, C>],
    (out_length, sum_length): (usize, usize),
) -> Result<(), KernelError> {
    let (num_rows, width) = (stream.x.num_rows(), stream.x.row_length());
    if let Some(residual) = &stream.residual {
        check_length("residual", width, residual.row_length())?;
        check_count("residual", num_rows, residual.num_rows())?;
    }
    check_count("sublayers", sublayers.len().max(1), sublayers.len())?;
    check_count("out", num_rows * width, out_length)?;
    check_count("sum", num_rows * width, sum_length)?;
    for sublayer in sublayers {
        let (entering, leaving) = sublayer.widths();
        check_length("x", entering, width)?;
        check_length("out", leaving, width)?;
        sublayer.check(num_rows, tokens)?;
    }
    Ok(())
}

/// How attention is cut into tasks: once for all layers that agree in what matters.
struct Schedules(Vec<(ScheduleKey, Schedule)>);

type ScheduleKey = ([usize; 3], usize, Option<usize>);

impl Schedules {
    fn new<C>(sublayers: &[Sublayer<'_, C>], tokens: &StepTokens<'_>) -> Result<Self, KernelError> {
        let mut all: Vec<(ScheduleKey, Schedule)> = Vec::new();
        for sublayer in sublayers {
            if let Half::Attention(layer) = &sublayer.half {
                let key = layer.schedule_key();
                if all.iter().all(|(known, _)| *known != key) {
                    all.push((key, layer.schedule(tokens)?));
                }
            }
        }
        Ok(Self(all))
    }

    fn of<C>(&self, layer: &AttentionLayer<'_, C>) -> &Schedule {
        let key = layer.schedule_key();
        let found = self.0.iter().find(|(known, _)| *known == key);
        &found.unwrap_or_else(|| unreachable!("made for every layer of the call")).1
    }

    fn sizes<C>(&self, sublayer: &Sublayer<'_, C>) -> Sizes {
        match &sublayer.half {
            Half::Attention(layer) => layer.sizes(self.of(layer)),
            Half::Mlp(weights) => weights.sizes(),
        }
    }
}

/// The way of the stream through the halves: one output, whose place each overwrites, and two sums in turn, of which the
/// last half's is the call's.
struct Flow<'a> {
    num_rows: usize,
    width: usize,
    x: StreamRows<'a>,
    residual: Option<StreamRows<'a>>,
    out: SharedOutput<'a, f32>,
    sums: [SharedOutput<'a, f32>; 2],
    num_halves: usize,
}

impl<'a> Flow<'a> {
    fn new(
        stream: &Stream<'a>,
        out: SharedOutput<'a, f32>,
        sums: [SharedOutput<'a, f32>; 2],
        num_halves: usize,
    ) -> Self {
        Self {
            num_rows: stream.x.num_rows(),
            width: stream.x.row_length(),
            x: StreamRows::Given(stream.x),
            residual: stream.residual.map(StreamRows::Given),
            out,
            sums,
            num_halves,
        }
    }

    fn sum(&self, half: usize) -> SharedOutput<'a, f32> {
        self.sums[(self.num_halves - half) % 2]
    }

    fn inflow(&self, half: usize) -> Inflow<'a> {
        let (x, residual) = if half == 0 {
            (self.x, self.residual)
        } else {
            let first = (half == 1 && self.residual.is_none()).then_some(self.x);
            let residual = first.unwrap_or_else(|| StreamRows::Made(self.sum(half - 1), self.width));
            (StreamRows::Made(self.out, self.width), Some(residual))
        };
        let residual = residual.map(|residual| (residual, self.sum(half)));
        Inflow { num_rows: self.num_rows, width: self.width, x, residual }
    }
}

/// A half cut into phases.
struct Stage<'a, C> {
    half: HalfPhases<'a, C>,
    output_step: Option<OutputPhase<'a>>,
}

enum HalfPhases<'a, C> {
    Attention(Box<AttentionPhases<'a, C>>),
    Mlp(Box<MlpPhases<'a>>),
}

impl<'a, C: Float> Stage<'a, C> {
    fn new(
        sublayer: Sublayer<'a, C>,
        tokens: StepTokens<'a>,
        schedules: &'a Schedules,
        (inflow, out): (Inflow<'a>, SharedOutput<'a, f32>),
        buffers: Buffers<'a>,
        set: InstructionSet,
    ) -> Self {
        let half = match sublayer.half {
            Half::Attention(layer) => {
                let schedule = schedules.of(&layer);
                let phases = AttentionPhases::new(layer, tokens, schedule, (inflow, out), buffers, set);
                HalfPhases::Attention(Box::new(phases))
            }
            Half::Mlp(weights) => HalfPhases::Mlp(Box::new(MlpPhases::new(weights, (inflow, out), buffers, set))),
        };
        let (num_rows, width) = (inflow.num_rows, inflow.width);
        let output_step = sublayer.output_step.map(|step| OutputPhase { step, out, num_rows, width, set });
        Self { half, output_step }
    }

    fn nanoseconds(&self) -> usize {
        match &self.half {
            HalfPhases::Attention(phases) => phases.nanoseconds(),
            HalfPhases::Mlp(phases) => phases.nanoseconds(),
        }
    }

    fn num_phases(&self) -> usize {
        let of_half = match &self.half {
            HalfPhases::Attention(_) => AttentionPhases::<C>::NUM_PHASES,
            HalfPhases::Mlp(_) => MlpPhases::NUM_PHASES,
        };
        of_half + usize::from(self.output_step.is_some())
    }

    /// # Safety
    /// What enters is made by an earlier phase or given; nobody else uses the call's buffers, caches or outputs.
    #[allow(unsafe_code)]
    unsafe fn run(&self, member: &mut Member<'_>) -> Result<(), Abandoned> {
        // SAFETY: handed on from the caller; the last step comes after the half.
        unsafe {
            match &self.half {
                HalfPhases::Attention(phases) => phases.run(member)?,
                HalfPhases::Mlp(phases) => phases.run(member)?,
            }
            self.output_step.as_ref().map_or(Ok(()), |phase| phase.run(member))
        }
    }
}

/// The phase that changes a half's output in place.
struct OutputPhase<'a> {
    step: OutputStep<'a>,
    out: SharedOutput<'a, f32>,
    num_rows: usize,
    width: usize,
    set: InstructionSet,
}

impl OutputPhase<'_> {
    /// # Safety
    /// The output is made, and nobody else uses it meanwhile.
    #[allow(unsafe_code)]
    unsafe fn run(&self, member: &mut Member<'_>) -> Result<(), Abandoned> {
        // One thread changes about 8 values a nanosecond.
        let length = run_length(self.num_rows, threads_for(self.num_rows * self.width / 8));
        member.run(self.num_rows.div_ceil(length), |task| {
            for row in task * length..self.num_rows.min((task + 1) * length) {
                // SAFETY: each row belongs to one task.
                let row = unsafe { self.out.part(row * self.width, self.width) };
                self.set.vectorize(
                    #[inline(always)]
                    || match self.step {
                        OutputStep::Norm(norm) => norm.apply(row),
                        OutputStep::Scale(factor) => scale(row, factor),
                    },
                );
            }
        })
    }
}

#[inline(always)]
fn scale(row: &mut [f32], factor: f32) {
    for value in row {
        *value *= factor;
    }
}
