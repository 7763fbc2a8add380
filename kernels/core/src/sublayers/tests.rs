use super::*;
use crate::activation::{Activation, gated_activation};
use crate::paged_attention::{AttentionBatch, PagedCache, Scoring, paged_attention};
use crate::quantized_linear::{BlockType, PackedWeight, Segment, quantized_linear};
use crate::rms_norm::rms_norm;
use crate::rotary::{CacheMut, RotaryInputs, RotaryTable, rotary_write_kv};
use crate::{Float, RowsMut, threads};
use half::f16;

const WIDTH: usize = 192;
const INNER: usize = 352;
const HEAD_DIM: usize = 32;
const NUM_HEADS: usize = 6;
const NUM_KV_HEADS: usize = 2;
const SHAPE: [usize; 4] = [48, NUM_KV_HEADS, 16, HEAD_DIM];

fn noise(length: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..length).map(|_| next()).collect()
}

fn packed(num_rows: usize, num_columns: usize, seed: u32) -> PackedWeight {
    let block_type = BlockType::named("Q8_0").unwrap();
    let mut blocks: Vec<u8> =
        noise(num_rows * num_columns / 32 * 34, seed).iter().map(|value| (value * 127.0) as i8 as u8).collect();
    for block in blocks.chunks_exact_mut(34) {
        block[..2].copy_from_slice(&f16::from_f32(0.001).to_le_bytes());
    }
    PackedWeight::new(&[Segment { blocks: &blocks, block_type }], num_columns).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn multiplied(x: &[f32], weight: &PackedWeight, bias: Option<&[f32]>, set: InstructionSet) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / weight.num_columns() * weight.num_rows()];
    quantized_linear(Rows::contiguous(x, weight.num_columns()), weight, &mut out, set).unwrap();
    if let Some(bias) = bias {
        out.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias));
    }
    out
}

/// The normalized rows, and the sum that goes on.
fn normed(x: &[f32], residual: Option<&[f32]>, norm: RmsNorm<'_>, set: InstructionSet) -> (Vec<f32>, Vec<f32>) {
    let (mut out, mut sum) = (vec![f32::NAN; x.len()], x.to_vec());
    let pair = residual.map(|residual| (Rows::contiguous(residual, WIDTH), &mut sum[..]));
    rms_norm(Rows::contiguous(x, WIDTH), norm.weight, norm.eps, pair, &mut out, set).unwrap();
    (out, sum)
}

/// Tokens of a step without attention.
fn no_tokens() -> StepTokens<'static> {
    let batch = AttentionBatch { block_tables: Rows::contiguous(&[], 1), context_lens: &[], cu_seqlens_q: &[0] };
    StepTokens { positions: &[], slot_mapping: &[], batch }
}

type Result2 = Result<(Vec<f32>, Vec<f32>), KernelError>;

/// The output of the last half, and the sum.
fn run<C: Float>(
    (x, residual): (&[f32], Option<&[f32]>),
    tokens: StepTokens<'_>,
    sublayers: Vec<Sublayer<'_, C>>,
    set: InstructionSet,
) -> Result2 {
    let (mut out, mut sum) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
    let residual = residual.map(|residual| Rows::contiguous(residual, WIDTH));
    let stream = Stream { x: Rows::contiguous(x, WIDTH), residual };
    run_sublayers(&stream, tokens, sublayers, (&mut out, &mut sum), set)?;
    Ok((out, sum))
}

fn alone<C>(half: Half<'_, C>) -> Vec<Sublayer<'_, C>> {
    vec![Sublayer { half, output_step: None }]
}

struct MlpParts {
    norm: Vec<f32>,
    gate_up: PackedWeight,
    bias: Vec<f32>,
    down: PackedWeight,
}

impl MlpParts {
    fn new() -> Self {
        Self {
            norm: noise(WIDTH, 1),
            gate_up: packed(2 * INNER, WIDTH, 2),
            bias: noise(2 * INNER, 3),
            down: packed(WIDTH, INNER, 4),
        }
    }

    fn weights(&self, activation: Activation, has_bias: bool) -> MlpWeights<'_> {
        MlpWeights {
            norm: RmsNorm { weight: &self.norm, eps: 1e-5 },
            gate_up: &self.gate_up,
            gate_up_bias: has_bias.then_some(&self.bias),
            activation,
            down: &self.down,
        }
    }
}

fn run_mlp(x: &[f32], residual: Option<&[f32]>, weights: MlpWeights<'_>, set: InstructionSet) -> (Vec<f32>, Vec<f32>) {
    run::<f32>((x, residual), no_tokens(), alone(Half::Mlp(weights)), set).unwrap()
}

#[test]
fn a_feed_forward_sublayer_equals_its_ops_to_the_bit() {
    let parts = MlpParts::new();
    let (x, residual) = (noise(21 * WIDTH, 5), noise(21 * WIDTH, 6));
    for set in InstructionSet::available() {
        for (num_rows, kind, is_bare) in [
            (0, Activation::Silu, false),
            (1, Activation::Silu, true),
            (3, Activation::GeluTanh, false),
            (8, Activation::Gelu, true),
            (21, Activation::Silu, false),
        ] {
            let x = &x[..num_rows * WIDTH];
            let residual = (!is_bare).then_some(&residual[..num_rows * WIDTH]);
            let weights = parts.weights(kind, !is_bare);
            let (rows, expected_sum) = normed(x, residual, weights.norm, set);
            let gate_up = multiplied(&rows, weights.gate_up, weights.gate_up_bias, set);
            let mut activated = vec![f32::NAN; num_rows * INNER];
            gated_activation(Rows::contiguous(&gate_up, 2 * INNER), kind, &mut activated, set).unwrap();
            let expected = multiplied(&activated, weights.down, None, set);
            let (out, sum) = run_mlp(x, residual, weights, set);
            assert_eq!(bits(&out), bits(&expected), "{} {num_rows}", set.name());
            assert_eq!(bits(&sum), bits(&expected_sum), "{} {num_rows}", set.name());
        }
    }
}

#[test]
fn a_row_is_bit_equal_alone_and_on_one_thread() {
    let parts = MlpParts::new();
    let (x, residual) = (noise(21 * WIDTH, 5), noise(21 * WIDTH, 6));
    for set in InstructionSet::available() {
        let weights = parts.weights(Activation::Silu, true);
        let (out, _) = run_mlp(&x, Some(&residual), weights, set);
        let row = 9 * WIDTH..10 * WIDTH;
        let (alone, _) = run_mlp(&x[row.clone()], Some(&residual[row.clone()]), weights, set);
        assert_eq!(bits(&alone), bits(&out[row]), "{}", set.name());
        // Inside a region there is no second one: the whole call runs on its thread.
        let nested = std::sync::Mutex::new(Vec::new());
        threads::parallel_for(2, 2, |task| {
            if task == 0 {
                *nested.lock().unwrap() = run_mlp(&x, Some(&residual), weights, set).0;
            }
        });
        assert_eq!(bits(&nested.into_inner().unwrap()), bits(&out), "{}", set.name());
    }
}

struct AttentionParts {
    norm: Vec<f32>,
    qkv: PackedWeight,
    bias: Vec<f32>,
    query_norm: Vec<f32>,
    key_norm: Vec<f32>,
    output: PackedWeight,
    angles: Vec<f32>,
}

const QUERY_WIDTH: usize = NUM_HEADS * HEAD_DIM;
const QKV_WIDTH: usize = QUERY_WIDTH + 2 * NUM_KV_HEADS * HEAD_DIM;
const ROTARY_DIM: usize = HEAD_DIM / 2;

impl AttentionParts {
    fn new() -> Self {
        Self {
            norm: noise(WIDTH, 1),
            qkv: packed(QKV_WIDTH, WIDTH, 2),
            bias: noise(QKV_WIDTH, 3),
            query_norm: noise(HEAD_DIM, 4),
            key_norm: noise(HEAD_DIM, 5),
            output: packed(WIDTH, QUERY_WIDTH, 6),
            angles: noise(512 * ROTARY_DIM, 7),
        }
    }

    fn weights(&self, has_extras: bool) -> AttentionWeights<'_> {
        let norm = |weight| RmsNorm { weight, eps: 1e-6 };
        let scoring = Scoring { scale: 0.4, softcap: None, window: None };
        AttentionWeights {
            norm: norm(&self.norm),
            qkv: &self.qkv,
            qkv_bias: has_extras.then_some(&self.bias),
            head_norms: has_extras.then_some([norm(&self.query_norm), norm(&self.key_norm)]),
            output: &self.output,
            scoring: if has_extras { Scoring { softcap: Some(5.0), window: Some(150), ..scoring } } else { scoring },
        }
    }

    fn table(&self) -> RotaryTable<'_> {
        RotaryTable { cos_sin: &self.angles, rotary_dim: ROTARY_DIM }
    }

    fn layer<'a>(&'a self, [keys, values]: &'a mut Caches, has_extras: bool) -> AttentionLayer<'a, f16> {
        let cache = CacheMut { keys, values, shape: SHAPE };
        AttentionLayer { weights: self.weights(has_extras), table: self.table(), cache }
    }
}

/// Sequences of a decode far on, a chunk and a decode at its start; what of them is in the step.
struct Step {
    tables: Vec<i32>,
    context_lens: Vec<i32>,
    cu_seqlens: Vec<i32>,
    positions: Vec<i64>,
    slots: Vec<i64>,
}

impl Step {
    fn new(sequences: &[(usize, usize)]) -> Self {
        let mut step = Self {
            tables: Vec::new(),
            context_lens: Vec::new(),
            cu_seqlens: vec![0],
            positions: Vec::new(),
            slots: Vec::new(),
        };
        for (index, (past, new)) in sequences.iter().enumerate() {
            let table: Vec<i32> = (0..24).map(|block| ((block * 2 + index) % 48) as i32).collect();
            for position in *past..past + new {
                step.positions.push(position as i64);
                step.slots.push(i64::from(table[position / 16]) * 16 + (position % 16) as i64);
            }
            step.tables.extend(table);
            step.context_lens.push((past + new) as i32);
            step.cu_seqlens.push(step.positions.len() as i32);
        }
        step
    }

    fn batch(&self) -> AttentionBatch<'_> {
        AttentionBatch {
            block_tables: Rows::contiguous(&self.tables, 24),
            context_lens: &self.context_lens,
            cu_seqlens_q: &self.cu_seqlens,
        }
    }

    fn tokens(&self) -> StepTokens<'_> {
        StepTokens { positions: &self.positions, slot_mapping: &self.slots, batch: self.batch() }
    }
}

type Caches = [Vec<f16>; 2];

fn caches() -> Caches {
    [8, 9].map(|seed| noise(SHAPE.iter().product(), seed).into_iter().map(f16::from_f32).collect())
}

fn run_attention(
    x: &[f32],
    residual: Option<&[f32]>,
    step: &Step,
    parts: &AttentionParts,
    has_extras: bool,
    set: InstructionSet,
) -> (Vec<f32>, Vec<f32>, Caches) {
    let mut cache = caches();
    let half = Half::Attention(parts.layer(&mut cache, has_extras));
    let (out, sum) = run((x, residual), step.tokens(), alone(half), set).unwrap();
    (out, sum, cache)
}

/// The ops one after another.
fn expected_attention(
    x: &[f32],
    residual: Option<&[f32]>,
    step: &Step,
    parts: &AttentionParts,
    has_extras: bool,
    set: InstructionSet,
) -> (Vec<f32>, Vec<f32>, Caches) {
    let weights = parts.weights(has_extras);
    let num_tokens = step.positions.len();
    let (rows, sum) = normed(x, residual, weights.norm, set);
    let qkv = multiplied(&rows, weights.qkv, weights.qkv_bias, set);
    let columns = |from: usize, to: usize| -> Vec<f32> {
        qkv.chunks_exact(QKV_WIDTH).flat_map(|row| row[from..to].to_vec()).collect()
    };
    let key_end = QUERY_WIDTH + NUM_KV_HEADS * HEAD_DIM;
    let (mut q, mut k, mut v) = (columns(0, QUERY_WIDTH), columns(QUERY_WIDTH, key_end), columns(key_end, QKV_WIDTH));
    if let Some([query_norm, key_norm]) = weights.head_norms {
        for (heads, norm) in [(&mut q, query_norm), (&mut k, key_norm)] {
            let before = heads.clone();
            rms_norm(Rows::contiguous(&before, HEAD_DIM), norm.weight, norm.eps, None, heads, set).unwrap();
        }
    }
    let mut cache = caches();
    let [keys, values] = &mut cache;
    let inputs = RotaryInputs {
        queries: RowsMut::contiguous(&mut q, QUERY_WIDTH),
        keys: RowsMut::contiguous(&mut k, NUM_KV_HEADS * HEAD_DIM),
        values: RowsMut::contiguous(&mut v, NUM_KV_HEADS * HEAD_DIM),
        positions: &step.positions,
        slot_mapping: &step.slots,
    };
    rotary_write_kv(&inputs, parts.table(), CacheMut { keys, values, shape: SHAPE }, set).unwrap();
    let mut attended = vec![f32::NAN; num_tokens * QUERY_WIDTH];
    let paged = PagedCache::new(&cache[0], &cache[1], SHAPE).unwrap();
    let queries = Rows::contiguous(&q, QUERY_WIDTH);
    paged_attention(queries, &paged, &step.batch(), weights.scoring, &mut attended, set).unwrap();
    (multiplied(&attended, weights.output, None, set), sum, cache)
}

#[test]
fn an_attention_sublayer_equals_its_ops_to_the_bit() {
    let parts = AttentionParts::new();
    let (x, residual) = (noise(30 * WIDTH, 10), noise(30 * WIDTH, 11));
    let steps = [vec![(300, 1)], vec![(0, 1)], vec![(370, 1), (5, 19), (0, 1)], vec![(8, 1); 8]];
    for set in InstructionSet::available() {
        for (sequences, has_extras) in steps.iter().flat_map(|step| [(step, false), (step, true)]) {
            let step = Step::new(sequences);
            let x = &x[..step.positions.len() * WIDTH];
            let residual = has_extras.then_some(&residual[..x.len()]);
            let (out, sum, cache) = run_attention(x, residual, &step, &parts, has_extras, set);
            let (expected, expected_sum, expected_cache) =
                expected_attention(x, residual, &step, &parts, has_extras, set);
            assert_eq!(bits(&out), bits(&expected), "{} {sequences:?}", set.name());
            assert_eq!(bits(&sum), bits(&expected_sum), "{} {sequences:?}", set.name());
            assert!(cache == expected_cache, "{} {sequences:?}", set.name());
        }
    }
}

#[test]
fn of_two_tokens_with_one_slot_the_later_is_kept() {
    let parts = AttentionParts::new();
    let x = noise(2 * WIDTH, 10);
    let mut step = Step::new(&[(0, 1), (1, 1)]);
    step.slots = vec![40, 40];
    let set = InstructionSet::best();
    let (_, _, cache) = run_attention(&x, None, &step, &parts, false, set);
    let (_, _, expected) = expected_attention(&x, None, &step, &parts, false, set);
    assert!(cache == expected);
}

#[test]
fn halves_in_one_run_equal_the_same_halves_one_by_one_to_the_bit() {
    let (attention, mlp) = (AttentionParts::new(), MlpParts::new());
    let (x, residual) = (noise(30 * WIDTH, 10), noise(30 * WIDTH, 11));
    let output_norm = noise(WIDTH, 12);
    let steps =
        [None, Some(OutputStep::Norm(RmsNorm { weight: &output_norm, eps: 1e-5 })), Some(OutputStep::Scale(0.22))];
    for set in InstructionSet::available() {
        for (num_layers, sequences, has_residual) in
            [(1, vec![(300, 1)], false), (2, vec![(300, 1)], true), (3, vec![(370, 1), (5, 19), (0, 1)], false)]
        {
            let step = Step::new(&sequences);
            let x = &x[..step.positions.len() * WIDTH];
            let residual = has_residual.then_some(&residual[..x.len()]);
            for output_step in steps {
                let mut caches: Vec<Caches> = (0..num_layers).map(|_| caches()).collect();
                // Every other layer sees a window, so that layers of two schedules are mixed.
                let halves = caches.iter_mut().enumerate().flat_map(|(index, cache)| {
                    let layer = attention.layer(cache, index % 2 == 1);
                    [Half::Attention(layer), Half::Mlp(mlp.weights(Activation::Silu, true))]
                });
                let sublayers = halves.map(|half| Sublayer { half, output_step }).collect();
                let (out, sum) = run((x, residual), step.tokens(), sublayers, set).unwrap();

                let (mut expected, mut stream) = (x.to_vec(), residual.map(<[f32]>::to_vec));
                for (index, cache) in caches.iter().enumerate() {
                    let has_extras = index % 2 == 1;
                    let (out, sum, expected_cache) =
                        expected_attention(&expected, stream.as_deref(), &step, &attention, has_extras, set);
                    assert!(*cache == expected_cache, "{} {sequences:?}", set.name());
                    let attended = stepped(out, output_step, set);
                    let (out, sum) = run_mlp(&attended, Some(&sum), mlp.weights(Activation::Silu, true), set);
                    (expected, stream) = (stepped(out, output_step, set), Some(sum));
                }
                assert_eq!(bits(&out), bits(&expected), "{} {sequences:?} {output_step:?}", set.name());
                assert_eq!(bits(&sum), bits(&stream.unwrap()), "{} {sequences:?} {output_step:?}", set.name());
            }
        }
    }
}

fn stepped(mut out: Vec<f32>, step: Option<OutputStep<'_>>, set: InstructionSet) -> Vec<f32> {
    match step {
        None => out,
        Some(OutputStep::Norm(norm)) => normed(&out, None, norm, set).0,
        Some(OutputStep::Scale(factor)) => {
            for value in &mut out {
                *value *= factor;
            }
            out
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let parts = MlpParts::new();
    let x = noise(2 * WIDTH, 5);
    let refused = |weights: MlpWeights<'_>| {
        let refusal = run::<f32>((&x, None), no_tokens(), alone(Half::Mlp(weights)), InstructionSet::PORTABLE);
        refusal.unwrap_err().to_string()
    };
    let weights = parts.weights(Activation::Silu, true);
    let short = RmsNorm { weight: &parts.norm[1..], eps: 1e-5 };
    assert!(refused(MlpWeights { norm: short, ..weights }).contains("`norm_weight`"));
    assert!(refused(MlpWeights { gate_up: weights.down, ..weights }).contains("`x`"));
    assert!(refused(MlpWeights { down: weights.gate_up, ..weights }).contains("`out`"));
    let no_half = run::<f32>((&x, None), no_tokens(), Vec::new(), InstructionSet::PORTABLE);
    assert!(no_half.unwrap_err().to_string().contains("`sublayers`"));
    let short = OutputStep::Norm(RmsNorm { weight: &parts.norm[1..], eps: 1e-5 });
    let sublayers = vec![Sublayer::<f32> { half: Half::Mlp(weights), output_step: Some(short) }];
    let refusal = run((&x, None), no_tokens(), sublayers, InstructionSet::PORTABLE);
    assert!(refusal.unwrap_err().to_string().contains("`output_norm`"));

    let parts = AttentionParts::new();
    let mut step = Step::new(&[(0, 1)]);
    step.slots = vec![48 * 16];
    let mut cache = caches();
    let half = Half::Attention(parts.layer(&mut cache, false));
    let refusal = run((&x[..WIDTH], None), step.tokens(), alone(half), InstructionSet::PORTABLE);
    assert_eq!(refusal, Err(KernelError::Index { name: "slot_mapping", at: 0, got: 768, limit: 768 }));
}
