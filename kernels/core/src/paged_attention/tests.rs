use super::*;
use half::bf16;

const SHAPE: [usize; 4] = [64, 2, 16, 32];
const NUM_HEADS: usize = 6;

fn noise(length: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..length).map(|_| next() * 2.0).collect()
}

const CAUSAL: Scoring = Scoring { scale: 0.3, softcap: None, window: None };

/// The definition, in float64: one query at `position` of the sequence with this block table.
fn expected(query: &[f32], [keys, values]: [&[f32]; 2], table: &[i32], position: usize, scoring: Scoring) -> Vec<f64> {
    let [_, num_kv_heads, block_size, head_dim] = SHAPE;
    let mut out = Vec::new();
    for head in 0..NUM_HEADS {
        let kv_head = head / (NUM_HEADS / num_kv_heads);
        let at = |p: usize| {
            let start =
                ((table[p / block_size] as usize * num_kv_heads + kv_head) * block_size + p % block_size) * head_dim;
            start..start + head_dim
        };
        let dot = |key: &[f32]| -> f64 {
            query[head * head_dim..].iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum()
        };
        let first = scoring.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let score = |p: usize| {
            let score = dot(&keys[at(p)]) * f64::from(scoring.scale);
            scoring.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = (first..=position).map(score).collect();
        let maximum = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - maximum).exp()).sum();
        out.extend((0..head_dim).map(|dim| {
            let weighted = |(i, score): (usize, &f64)| (score - maximum).exp() * f64::from(values[at(first + i)][dim]);
            scores.iter().enumerate().map(weighted).sum::<f64>() / sum
        }));
    }
    out
}

fn run(
    q: &[f32],
    cache: &PagedCache<'_, f32>,
    batch: &AttentionBatch<'_>,
    scoring: Scoring,
    set: InstructionSet,
) -> Vec<f32> {
    let mut out = vec![f32::NAN; q.len()];
    paged_attention(Rows::contiguous(q, NUM_HEADS * SHAPE[3]), cache, batch, scoring, &mut out, set).unwrap();
    out
}

#[test]
fn chunks_and_decodes_in_one_call_match_the_definition() {
    let (keys, values) = (noise(SHAPE.iter().product(), 1), noise(SHAPE.iter().product(), 2));
    let cache = PagedCache::new(&keys, &values, SHAPE).unwrap();
    let mut tables = vec![-1; 3 * 30];
    (0..30).for_each(|i| tables[i] = (i as i32 * 7 + 1) % 64);
    (tables[30], tables[31], tables[60]) = (5, 9, 3);
    let batch = AttentionBatch {
        block_tables: Rows::contiguous(&tables, 30),
        context_lens: &[470, 20, 1],
        cu_seqlens_q: &[0, 1, 18, 19],
    };
    let q = noise(19 * NUM_HEADS * SHAPE[3], 3);
    let positions = std::iter::once((0, 469)).chain((3..20).map(|p| (1, p))).chain([(2, 0)]);
    let places: Vec<_> = positions.collect();
    let bent = Scoring { softcap: Some(1.5), window: Some(17), ..CAUSAL };
    let all = [CAUSAL, Scoring { softcap: Some(1.5), ..CAUSAL }, Scoring { window: Some(1), ..CAUSAL }, bent];
    for (set, scoring) in InstructionSet::available().into_iter().flat_map(|set| all.map(|scoring| (set, scoring))) {
        let out = run(&q, &cache, &batch, scoring, set);
        for (token, (sequence, position)) in places.iter().enumerate() {
            let range = token * NUM_HEADS * SHAPE[3]..(token + 1) * NUM_HEADS * SHAPE[3];
            let table = &tables[sequence * 30..];
            let expected = expected(&q[range.clone()], [&keys, &values], table, *position, scoring);
            for (got, expected) in out[range].iter().zip(expected) {
                assert!((f64::from(*got) - expected).abs() < 2e-5, "{} {scoring:?} {got} {expected}", set.name());
            }
        }
    }
}

#[test]
fn a_query_is_bit_equal_in_a_whole_prompt_in_chunks_and_alone() {
    let (keys, values) = (noise(SHAPE.iter().product(), 4), noise(SHAPE.iter().product(), 5));
    let cache = PagedCache::new(&keys, &values, SHAPE).unwrap();
    let table: Vec<i32> = (0..40).map(|i| 63 - i).collect();
    let q = noise(600 * NUM_HEADS * SHAPE[3], 6);
    let width = NUM_HEADS * SHAPE[3];
    let sliding = Scoring { window: Some(90), softcap: Some(20.0), ..CAUSAL };
    for (set, scoring) in InstructionSet::available().into_iter().flat_map(|set| [(set, CAUSAL), (set, sliding)]) {
        let part = |from: usize, to: usize| {
            let batch = AttentionBatch {
                block_tables: Rows::contiguous(&table, 40),
                context_lens: &[to as i32],
                cu_seqlens_q: &[0, (to - from) as i32],
            };
            run(&q[from * width..to * width], &cache, &batch, scoring, set)
        };
        let whole = part(0, 600);
        let chunked: Vec<f32> = [(0, 7), (7, 300), (300, 556), (556, 600)].map(|(from, to)| part(from, to)).concat();
        assert!(whole == chunked, "{}", set.name());
        for at in [0, 63, 64, 255, 256, 599] {
            assert_eq!(part(at, at + 1), whole[at * width..(at + 1) * width], "{} {at}", set.name());
        }
    }
}

#[test]
fn written_keys_are_read_back_from_their_slots_and_negative_slots_are_skipped() {
    let shape = [4, 2, 2, 3];
    let (mut keys, mut values) = (vec![bf16::ZERO; 48], vec![bf16::ZERO; 48]);
    let (k, v) = (noise(18, 7), noise(18, 8));
    let sides = [Rows::contiguous(&k, 6), Rows::contiguous(&v, 6)];
    let set = InstructionSet::best();
    write_kv_cache(sides, [&mut keys, &mut values], shape, &[5, -1, 2], set).unwrap();
    for head in 0..2 {
        for dim in 0..3 {
            assert_eq!(keys[((2 * 2 + head) * 2 + 1) * 3 + dim], bf16::from_f32(k[head * 3 + dim]));
            assert_eq!(values[((2 + head) * 2) * 3 + dim], bf16::from_f32(v[12 + head * 3 + dim]));
        }
    }
    assert_eq!(keys.iter().filter(|key| **key != bf16::ZERO).count(), 12);
    let error = write_kv_cache(sides, [&mut keys, &mut values], shape, &[0, 1, 8], set).unwrap_err();
    assert_eq!(error, KernelError::Index { name: "slot_mapping", at: 2, got: 8, limit: 8 });
}

#[test]
fn blocks_before_the_window_are_not_read() {
    let (mut keys, mut values) = (noise(SHAPE.iter().product(), 4), noise(SHAPE.iter().product(), 5));
    let width = NUM_HEADS * SHAPE[3];
    let q = noise(3 * width, 6);
    let scoring = Scoring { window: Some(20), ..CAUSAL };
    // Queries at 397 to 399 see from 378 on, which lies in block 23.
    let mut table: Vec<i32> = (0..25).collect();
    let run_with = |keys: &[f32], values: &[f32], table: &[i32], set| {
        let cache = PagedCache::new(keys, values, SHAPE).unwrap();
        let block_tables = Rows::contiguous(table, 25);
        let batch = AttentionBatch { block_tables, context_lens: &[400], cu_seqlens_q: &[0, 3] };
        run(&q, &cache, &batch, scoring, set)
    };
    let sets = InstructionSet::available();
    let before: Vec<_> = sets.iter().map(|set| run_with(&keys, &values, &table, *set)).collect();
    let block = SHAPE[1] * SHAPE[2] * SHAPE[3];
    keys[..23 * block].fill(f32::NAN);
    values[..23 * block].fill(f32::NAN);
    table[..23].fill(-1);
    for (set, before) in sets.iter().zip(before) {
        assert!(run_with(&keys, &values, &table, *set) == before, "{}", set.name());
    }
}

#[test]
fn a_softcap_that_is_not_positive_is_refused() {
    let keys = noise(SHAPE.iter().product(), 4);
    let cache = PagedCache::new(&keys, &keys, SHAPE).unwrap();
    let batch = AttentionBatch { block_tables: Rows::contiguous(&[0], 1), context_lens: &[3], cu_seqlens_q: &[0, 1] };
    let q = noise(NUM_HEADS * SHAPE[3], 6);
    let rows = Rows::contiguous(&q, NUM_HEADS * SHAPE[3]);
    for scoring in [Scoring { softcap: Some(-1.0), ..CAUSAL }, Scoring { window: Some(0), ..CAUSAL }] {
        let refused = paged_attention(rows, &cache, &batch, scoring, &mut q.clone(), InstructionSet::best());
        assert!(matches!(refused, Err(KernelError::Value { .. })), "{scoring:?}");
    }
}

#[test]
fn a_block_outside_the_cache_is_refused() {
    let keys = noise(SHAPE.iter().product(), 4);
    let cache = PagedCache::new(&keys, &keys, SHAPE).unwrap();
    let batch = AttentionBatch { block_tables: Rows::contiguous(&[64], 1), context_lens: &[3], cu_seqlens_q: &[0, 1] };
    let q = noise(NUM_HEADS * SHAPE[3], 6);
    let mut out = q.clone();
    let q = Rows::contiguous(&q, NUM_HEADS * SHAPE[3]);
    let error = paged_attention(q, &cache, &batch, CAUSAL, &mut out, InstructionSet::best()).unwrap_err();
    assert_eq!(error, KernelError::Index { name: "block_tables", at: 0, got: 64, limit: 64 });
}
