//! `output(attention(rotary(qkv(norm(h)))))` with `h = x + residual`, keys and values written to the paged cache.

use super::{NormedRows, Stream, TileTasks, WORKSPACE, check_count, check_length};
use crate::paged_attention::{self, AttentionBatch, Call, PagedCache, Schedule, Scoring};
use crate::quantized_linear::{PackedWeight, Product, QuantizedActivations};
use crate::rms_norm::RmsNorm;
use crate::rotary::{self, CacheMut, KvWriter, RotaryTable, has_repeats};
use crate::threads::{Phase, SharedOutput, parallel_phases, run_length, threads_for};
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

/// What a step brings; a row of the stream is a token.
pub struct AttentionInputs<'a, C> {
    /// What enters.
    pub stream: Stream<'a>,
    /// Angles.
    pub table: RotaryTable<'a>,
    /// Each token's row of the table.
    pub positions: &'a [i64],
    /// Each token's slot; negative: not written to the cache.
    pub slot_mapping: &'a [i64],
    /// Where keys and values go, and are read from.
    pub cache: CacheMut<'a, C>,
    /// The sequences.
    pub batch: AttentionBatch<'a>,
}

/// Computes one attention sublayer: `out` is contiguous `[tokens, output.num_rows()]`, wholly overwritten.
///
/// Equal to `rms_norm`, `quantized_linear`, the bias, the heads' norms, `rotary_write_kv`, `paged_attention` and
/// `quantized_linear` to the bit. Of two tokens with one slot the later wins.
pub fn attention_sublayer<C: Float>(
    inputs: AttentionInputs<'_, C>,
    weights: AttentionWeights<'_>,
    out: &mut [f32],
    set: InstructionSet,
) -> Result<(), KernelError> {
    inputs.check(&weights, out.len())?;
    let AttentionInputs { stream, table, positions, slot_mapping, cache, batch } = inputs;
    let num_tokens = positions.len();
    let query_width = weights.output.num_columns();
    let schedule = {
        let cache = PagedCache::new(cache.keys, cache.values, cache.shape)?;
        paged_attention::check(num_tokens, query_width, &cache, &batch, weights.scoring)?;
        Schedule::new(&batch, &cache, query_width, weights.scoring)
    };
    let mut partials = schedule.partials();
    WORKSPACE.with_borrow_mut(|workspace| {
        workspace.middle.resize(num_tokens * weights.qkv.num_rows(), 0.0);
        workspace.attended.resize(num_tokens * query_width, 0.0);
        let qkv_out = SharedOutput::new(&mut workspace.middle);
        let input = workspace.input.rows(num_tokens, weights.qkv.num_columns());
        let quantized = workspace.output.rows(num_tokens, query_width);
        let norm = NormedRows::new(stream, weights.norm, input, set);
        let qkv = Product::new(input, weights.qkv, qkv_out, set);
        let heads = Heads {
            qkv: qkv_out,
            weights,
            writer: KvWriter::new(table, cache, set),
            positions,
            slot_mapping,
            // One thread turns and writes about 4 values a nanosecond.
            tokens_per_task: if has_repeats(slot_mapping) {
                num_tokens
            } else {
                run_length(num_tokens, threads_for(num_tokens * weights.qkv.num_rows() / 4))
            },
            batch,
            schedule: &schedule,
            partials: SharedOutput::new(&mut partials),
            attended: SharedOutput::new(&mut workspace.attended),
            quantized,
            tasks: TileTasks::new(&quantized, num_tokens * query_width / 4),
            set,
        };
        let output = Product::new(quantized, weights.output, SharedOutput::new(out), set);
        heads.run(&norm, &qkv, &output);
    });
    Ok(())
}

impl<C> AttentionInputs<'_, C> {
    fn check(&self, weights: &AttentionWeights<'_>, out_length: usize) -> Result<(), KernelError> {
        let [num_blocks, num_kv_heads, block_size, head_dim] = self.cache.shape;
        let (num_tokens, query_width) = (self.positions.len(), weights.output.num_columns());
        self.stream.check(weights.qkv.num_columns(), weights.norm)?;
        check_count("x", num_tokens, self.stream.x.num_rows())?;
        check_count("slot_mapping", num_tokens, self.slot_mapping.len())?;
        check_count("out", num_tokens * weights.output.num_rows(), out_length)?;
        check_count("qkv", query_width + 2 * num_kv_heads * head_dim, weights.qkv.num_rows())?;
        if let Some(bias) = weights.qkv_bias {
            check_count("qkv_bias", weights.qkv.num_rows(), bias.len())?;
        }
        for norm in weights.head_norms.iter().flatten() {
            check_length("head_norms", head_dim, norm.weight.len())?;
        }
        rotary::check_places(self.table, head_dim, self.positions, self.slot_mapping, num_blocks * block_size)
    }
}

/// The phases between the two products.
struct Heads<'a, C> {
    qkv: SharedOutput<'a, f32>,
    weights: AttentionWeights<'a>,
    writer: KvWriter<'a, C>,
    positions: &'a [i64],
    slot_mapping: &'a [i64],
    tokens_per_task: usize,
    batch: AttentionBatch<'a>,
    schedule: &'a Schedule,
    partials: SharedOutput<'a, f32>,
    attended: SharedOutput<'a, f32>,
    quantized: QuantizedActivations<'a>,
    tasks: TileTasks,
    set: InstructionSet,
}

#[allow(unsafe_code)]
impl<C: Float> Heads<'_, C> {
    fn run(&self, norm: &NormedRows<'_>, qkv: &Product<'_>, output: &Product<'_>) {
        let nanoseconds = qkv.nanoseconds() + self.schedule.nanoseconds() + output.nanoseconds();
        // SAFETY: each phase reads what those before it have written, and the tasks of a phase write disjoint parts.
        let (norm_task, qkv_task, write_task) =
            (|task| unsafe { norm.run(task) }, |task| unsafe { qkv.run(task) }, |task| unsafe { self.write(task) });
        // SAFETY: as above.
        let (attend_task, merge_task, quantize_task, output_task) = (
            |task| unsafe { self.call().attend(task) },
            |task| unsafe { self.call().merge(task) },
            |task| unsafe { self.quantize(task) },
            |task| unsafe { output.run(task) },
        );
        parallel_phases(
            threads_for(nanoseconds),
            &[
                Phase { num_tasks: norm.tasks.num_tasks(), task: &norm_task },
                Phase { num_tasks: qkv.num_tasks(), task: &qkv_task },
                Phase { num_tasks: self.positions.len().div_ceil(self.tokens_per_task.max(1)), task: &write_task },
                Phase { num_tasks: self.schedule.num_tasks(), task: &attend_task },
                Phase { num_tasks: self.schedule.num_merges(), task: &merge_task },
                Phase { num_tasks: self.tasks.num_tasks(), task: &quantize_task },
                Phase { num_tasks: output.num_tasks(), task: &output_task },
            ],
        );
    }

    /// Adds the bias, normalizes and turns heads, and writes keys and values of some tokens.
    ///
    /// # Safety
    /// `qkv` is complete, and nobody else uses it or the cache during this phase.
    unsafe fn write(&self, task: usize) {
        let (width, query_width) = (self.weights.qkv.num_rows(), self.weights.output.num_columns());
        let first = task * self.tokens_per_task;
        for token in first..self.positions.len().min(first + self.tokens_per_task) {
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
            unsafe { self.writer.write(query, key, value, self.positions[token], self.slot_mapping[token]) };
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
                self.qkv.read(0, self.positions.len() * width),
                self.writer.keys.read(0, cache_length),
                self.writer.values.read(0, cache_length),
            )
        };
        Call {
            q: Rows::of(qkv, self.positions.len(), query_width, width),
            cache: PagedCache::of(keys, values, self.writer.shape),
            batch: self.batch,
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
        let attended = unsafe { self.attended.read(0, self.positions.len() * width) };
        // SAFETY: a tile's blocks are in one task.
        unsafe { self.quantized.quantize(tile, blocks, &Rows::contiguous(attended, width), self.set) };
    }
}
