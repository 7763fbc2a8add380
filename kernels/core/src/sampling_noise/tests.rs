use super::*;

const SIZE: usize = 5000;

fn logits(spread: f32, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    (0..SIZE).map(|_| next() * spread).collect()
}

/// Noise for every token, no bounds: the definition.
fn full(logits: &[f32], seed: u64, position: u64) -> i64 {
    let mut best = (f64::NEG_INFINITY, -1);
    for (id, logit) in logits.iter().enumerate() {
        let value = f64::from(*logit) + noise(philox::words(seed, position, id as u32)[0]);
        if value > best.0 {
            best = (value, id as i64);
        }
    }
    best.1
}

fn draws(logits: &[f32], seeds: &[i64], positions: &[i64], set: InstructionSet) -> Vec<i64> {
    let mut ids = vec![0; seeds.len()];
    gumbel_argmax(Rows::contiguous(logits, logits.len() / seeds.len()), seeds, positions, &mut ids, set).unwrap();
    ids
}

#[test]
fn skipping_hopeless_tokens_never_changes_the_draw() {
    for set in InstructionSet::available() {
        for (case, spread) in [0.0, 0.1, 3.0, 30.0, 1000.0].into_iter().enumerate() {
            for seed in 0..20 {
                let row = logits(spread, case as u32 * 100 + seed);
                let seed = i64::from(seed) * 0x1234_5678_9abc;
                assert_eq!(draws(&row, &[seed], &[7], set), [full(&row, seed as u64, 7)], "spread {spread}");
            }
        }
    }
}

#[test]
fn the_bound_is_above_the_noise_of_every_word() {
    let near_powers = (0..32).flat_map(|bit| [(1u32 << bit) - 1, 1 << bit, (1 << bit) + 1]);
    for word in near_powers.flat_map(|word| [word, !word]) {
        let slack = f64::from(noise_bound(word)) - noise(word);
        assert!(slack > -1e-5, "{word}: {slack}");
        assert!(word < 0xfc00_0000 || slack < 0.75, "{word}: {slack}");
    }
}

#[test]
fn a_token_of_minus_infinity_never_wins_and_a_hopeless_row_yields_minus_one() {
    let mut row = vec![f32::NEG_INFINITY; 100];
    assert_eq!(draws(&row, &[1], &[1], InstructionSet::best()), [-1]);
    row[70] = -1e30;
    for seed in 0..50 {
        assert_eq!(draws(&row, &[seed], &[1], InstructionSet::best()), [70]);
    }
    row[3] = f32::NAN;
    assert_eq!(draws(&row, &[1], &[1], InstructionSet::best()), [-1]);
}

#[test]
fn log_probabilities_match_float64_and_one_missing_token_is_refused() {
    for set in InstructionSet::available() {
        for spread in [0.0, 5.0, 200.0] {
            let mut row = logits(spread, 9);
            row[17] = f32::NEG_INFINITY;
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
            let mut out = [0.0; 2];
            let twice = [row.clone(), row.clone()].concat();
            token_logprobs(Rows::contiguous(&twice, SIZE), &[40, 17], &mut out, set).unwrap();
            let expected = f64::from(row[40]) - f64::from(largest) - sum.ln();
            assert!((f64::from(out[0]) - expected).abs() < 1e-5 * expected.abs() + 1e-6, "{} {expected}", out[0]);
            assert!(out[1].is_infinite() && out[1] < 0.0);
            assert!(token_logprobs(Rows::contiguous(&twice, SIZE), &[0, SIZE as i64], &mut out, set).is_err());
        }
    }
}
