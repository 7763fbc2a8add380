//! `output(attention(rotary(qkv(norm(h)))))` with `h = x + residual`, keys and values written to the paged cache.

use super::{Buffers, Inflow, NormedRows, Sizes, StepTokens, TileTasks, check_count, check_length};
use crate::paged_attention::{self, Call, PagedCache, Schedule, Scoring};
use crate::quantized_linear::{PackedWeight, Product, QuantizedActivations};
use crate::rms_norm::RmsNorm;
use crate::rotary::{self, CacheMut, KvWriter, RotaryTable, has_repeats};
use crate::threads::{Abandoned, Member, SharedOutput, run_length, threads_for};
use crate::{Float, InstructionSet, KernelError, Rows};

/// What is fixed of one layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionWeights<'a> {
    /// Of the model's width.
    pub norm: RmsNorm<'a>,
    /// `[(num_heads + 2 * num_kv_heads) * head_dim, model width]`: queries, keys, values.
    pub qkv: &'a PackedWeight,
    /// Added to what `qkv` gives.
    pub qkv_bias: Option<&'a [f32]>,
    /// Of each head of the queries, then of the keys, before they turn; `head_dim` wide.
    pub head_norms: Option<[RmsNorm<'a>; 2]>,
    /// `[model width, num_heads * head_dim]`.
    pub output: &'a PackedWeight,
    /// How scores are made.
    pub scoring: Scoring,
}

impl AttentionWeights<'_> {
    /// Elements a row of the queries.
    fn query_width(&self) -> usize {
        self.output.num_columns()
    }

    fn check(&self, [_, num_kv_heads, _, head_dim]: [usize; 4]) -> Result<(), KernelError> {
        check_count("norm_weight", self.qkv.num_columns(), self.norm.weight.len())?;
        check_count("qkv", self.query_width() + 2 * num_kv_heads * head_dim, self.qkv.num_rows())?;
        if let Some(bias) = self.qkv_bias {
            check_count("qkv_bias", self.qkv.num_rows(), bias.len())?;
        }
        self.head_norms.iter().flatten().try_for_each(|norm| check_length("head_norms", head_dim, norm.weight.len()))
    }
}

/// One layer's attention, and what it reads and writes beside the stream.
pub struct AttentionLayer<'a, C> {
    /// Its weights.
    pub weights: AttentionWeights<'a>,
    /// Angles of each position.
    pub table: RotaryTable<'a>,
    /// Where keys and values go, and are read from.
    pub cache: CacheMut<'a, C>,
}

impl<C> AttentionLayer<'_, C> {
    /// Refuses what does not fit together, or points outside of table and cache.
    pub(super) fn check(&self, tokens: &StepTokens<'_>) -> Result<(), KernelError> {
        let [num_blocks, _, block_size, head_dim] = self.cache.shape;
        self.weights.check(self.cache.shape)?;
        check_count("slot_mapping", tokens.positions.len(), tokens.slot_mapping.len())?;
        rotary::check_places(self.table, head_dim, tokens.positions, tokens.slot_mapping, num_blocks * block_size)?;
        let cache = PagedCache::new(self.cache.keys, self.cache.values, self.cache.shape)?;
        let (num_tokens, query_width) = (tokens.positions.len(), self.weights.query_width());
        paged_attention::check(num_tokens, query_width, &cache, &tokens.batch, self.weights.scoring)
    }

    /// How its attention is cut into tasks.
    pub(super) fn schedule(&self, tokens: &StepTokens<'_>) -> Result<Schedule, KernelError> {
        let cache = PagedCache::new(self.cache.keys, self.cache.values, self.cache.shape)?;
        Ok(Schedule::new(&tokens.batch, &cache, self.weights.query_width(), self.weights.scoring))
    }

    /// Layers that agree in this have the same schedule.
    pub(super) fn schedule_key(&self) -> ([usize; 3], usize, Option<usize>) {
        let [_, num_kv_heads, block_size, head_dim] = self.cache.shape;
        ([num_kv_heads, block_size, head_dim], self.weights.query_width(), self.weights.scoring.window)
    }

    pub(super) fn sizes(&self, schedule: &Schedule) -> Sizes {
        Sizes {
            input_columns: self.weights.qkv.num_columns(),
            middle_columns: self.weights.qkv.num_rows(),
            attended_columns: self.weights.query_width(),
            num_partials: schedule.num_partials(),
            output_columns: self.weights.query_width(),
        }
    }
}

/// A layer's attention cut into phases.
pub(super) struct AttentionPhases<'a, C> {
    norm: NormedRows<'a>,
    qkv: Product<'a>,
    heads: Heads<'a, C>,
    output: Product<'a>,
}

#[allow(unsafe_code)]
impl<'a, C: Float> AttentionPhases<'a, C> {
    pub(super) const NUM_PHASES: usize = 7;

    /// `layer` is checked with `tokens`; `out`: `[tokens, weights.output.num_rows()]`.
    pub(super) fn new(
        layer: AttentionLayer<'a, C>,
        tokens: StepTokens<'a>,
        schedule: &'a Schedule,
        (inflow, out): (Inflow<'a>, SharedOutput<'a, f32>),
        buffers: Buffers<'a>,
        set: InstructionSet,
    ) -> Self {
        let AttentionLayer { weights, table, cache } = layer;
        let num_tokens = inflow.num_rows;
        let input = buffers.input.of_columns(weights.qkv.num_columns());
        let quantized = buffers.output.of_columns(weights.query_width());
        let heads = Heads {
            qkv: buffers.middle,
            weights,
            writer: KvWriter::new(table, cache, set),
            tokens,
            // One thread turns and writes about 4 values a nanosecond.
            tokens_per_task: if has_repeats(tokens.slot_mapping) {
                num_tokens
            } else {
                run_length(num_tokens, threads_for(num_tokens * weights.qkv.num_rows() / 4))
            },
            schedule,
            partials: buffers.partials,
            attended: buffers.attended,
            quantized,
            tasks: TileTasks::new(&quantized, num_tokens * weights.query_width() / 4),
            set,
        };
        Self {
            norm: NormedRows::new(inflow, weights.norm, input, set),
            qkv: Product::new(input, weights.qkv, buffers.middle, set),
            heads,
            output: Product::new(quantized, weights.output, out, set),
        }
    }

    /// About how long one thread takes.
    pub(super) fn nanoseconds(&self) -> usize {
        self.qkv.nanoseconds() + self.heads.schedule.nanoseconds() + self.output.nanoseconds()
    }

    /// # Safety
    /// What enters is made by an earlier phase or given; nobody else uses the buffers, the cache or `out` meanwhile.
    pub(super) unsafe fn run(&self, member: &mut Member<'_>) -> Result<(), Abandoned> {
        let (norm, heads, schedule) = (&self.norm, &self.heads, self.heads.schedule);
        let num_writes = heads.tokens.positions.len().div_ceil(heads.tokens_per_task.max(1));
        // SAFETY: each phase reads what those before it have written, and the tasks of a phase write disjoint parts.
        unsafe {
            member.run(norm.tasks.num_tasks(), |task| norm.run(task))?;
            member.run(self.qkv.num_tasks(), |task| self.qkv.run(task))?;
            member.run(num_writes, |task| heads.write(task))?;
            member.run(schedule.num_tasks(), |task| heads.call().attend(task))?;
            member.run(schedule.num_merges(), |task| heads.call().merge(task))?;
            member.run(heads.tasks.num_tasks(), |task| heads.quantize(task))?;
            member.run(self.output.num_tasks(), |task| self.output.run(task))
        }
    }
}

/// The phases between the two products.
struct Heads<'a, C> {
    qkv: SharedOutput<'a, f32>,
    weights: AttentionWeights<'a>,
    writer: KvWriter<'a, C>,
    tokens: StepTokens<'a>,
    tokens_per_task: usize,
    schedule: &'a Schedule,
    partials: SharedOutput<'a, f32>,
    attended: SharedOutput<'a, f32>,
    quantized: QuantizedActivations<'a>,
    tasks: TileTasks,
    set: InstructionSet,
}

#[allow(unsafe_code)]
impl<C: Float> Heads<'_, C> {
    /// Adds the bias, normalizes and turns heads, and writes keys and values of some tokens.
    ///
    /// # Safety
    /// `qkv` is complete, and nobody else uses it or the cache during this phase.
    unsafe fn write(&self, task: usize) {
        let (width, query_width) = (self.weights.qkv.num_rows(), self.weights.output.num_columns());
        let first = task * self.tokens_per_task;
        for token in first..self.tokens.positions.len().min(first + self.tokens_per_task) {
            let (position, slot) = (self.tokens.positions[token], self.tokens.slot_mapping[token]);
            // SAFETY: a token is in one task.
            let row = unsafe { self.qkv.part(token * width, width) };
            if let Some(bias) = self.weights.qkv_bias {
                row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
            let (query, rest) = row.split_at_mut(query_width);
            let (key, value) = rest.split_at_mut((width - query_width) / 2);
            if let Some([query_norm, key_norm]) = self.weights.head_norms {
                self.set.vectorize(
                    #[inline(always)]
                    || {
                        query_norm.apply(query);
                        key_norm.apply(key);
                    },
                );
            }
            // SAFETY: slots are distinct, or one task has all tokens.
            unsafe { self.writer.write(query, key, value, position, slot) };
        }
    }

    /// # Safety
    /// Keys, values and queries are complete, and nobody writes them as long as the call is in use.
    unsafe fn call(&self) -> Call<'_, f32, C> {
        let (width, query_width) = (self.weights.qkv.num_rows(), self.weights.output.num_columns());
        let cache_length = self.writer.shape.iter().product();
        // SAFETY: the caller's promise.
        let (qkv, keys, values) = unsafe {
            (
                self.qkv.read(0, self.tokens.positions.len() * width),
                self.writer.keys.read(0, cache_length),
                self.writer.values.read(0, cache_length),
            )
        };
        Call {
            q: Rows::of(qkv, self.tokens.positions.len(), query_width, width),
            cache: PagedCache::of(keys, values, self.writer.shape),
            batch: self.tokens.batch,
            scoring: self.weights.scoring,
            schedule: self.schedule,
            partials: self.partials,
            out: self.attended,
            set: self.set,
        }
    }

    /// # Safety
    /// `attended` is complete, and nobody else uses the quantized rows during this phase.
    unsafe fn quantize(&self, task: usize) {
        let (tile, blocks) = self.tasks.of(task);
        let width = self.weights.output.num_columns();
        // SAFETY: the caller's promise.
        let attended = unsafe { self.attended.read(0, self.tokens.positions.len() * width) };
        // SAFETY: a tile's blocks are in one task.
        unsafe { self.quantized.quantize(tile, blocks, &Rows::contiguous(attended, width), self.set) };
    }
}
