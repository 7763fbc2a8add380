#![allow(clippy::float_cmp)] // a cut is the very logit of a token

use super::*;

const SIZE: usize = 5000;

fn row(spread: f32, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    (0..SIZE).map(|_| next() * spread).collect()
}

/// Every case that a bucket could get wrong: wide and narrow rows, equals, and tokens that cannot be chosen.
fn rows() -> Vec<Vec<f32>> {
    let mut rows: Vec<_> = [0.0, 1e-3, 1.0, 20.0, 1000.0].iter().zip(1..).map(|(s, seed)| row(*s, seed)).collect();
    rows.push(row(9.0, 6).iter().map(|logit| logit.round()).collect());
    let mut masked = row(9.0, 7);
    masked.iter_mut().step_by(3).for_each(|logit| *logit = f32::NEG_INFINITY);
    rows.push(masked);
    rows
}

fn window(logits: &[f32], floor: f32, centre: f32, share: f32, set: InstructionSet) -> [f32; 2] {
    let mut windows = [[0.0; 2]];
    mass_window(Rows::contiguous(logits, logits.len()), &[floor], &[centre], &[share], &mut windows, set).unwrap();
    windows[0]
}

/// The definition: all of the row in order of distance, in float64.
fn kept_by_definition(logits: &[f32], floor: f32, centre: f32, share: f32) -> Vec<f32> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let centre = f64::from(centre.min(best));
    let distance = |logit: f32| (f64::from(logit) - centre).abs();
    let mut order: Vec<_> = logits.iter().copied().filter(|logit| *logit >= floor && logit.is_finite()).collect();
    order.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    let mass = |logit: &f32| f64::from(logit - best).exp();
    let total: f64 = order.iter().map(mass).sum();
    let mut reached = 0.0;
    let cut = order.iter().position(|logit| {
        reached += mass(logit);
        reached >= f64::from(share) * total
    });
    let limit = distance(order[cut.unwrap()]);
    let mut kept: Vec<_> = order.into_iter().filter(|logit| distance(*logit) <= limit).collect();
    kept.sort_by(f32::total_cmp);
    kept
}

#[test]
fn a_window_keeps_what_the_definition_keeps() {
    for set in InstructionSet::available() {
        for (case, logits) in rows().iter().enumerate() {
            for share in [1e-6, 0.1, 0.5, 0.9, 0.999] {
                for (floor, centre) in [(f32::NEG_INFINITY, f32::INFINITY), (f32::NEG_INFINITY, 3.3), (2.0, 2.5)] {
                    if logits.iter().all(|logit| *logit < floor) {
                        continue;
                    }
                    let [low, high] = window(logits, floor, centre, share, set);
                    let mut kept: Vec<_> = logits.iter().copied().filter(|x| low <= *x && *x <= high).collect();
                    kept.sort_by(f32::total_cmp);
                    let expected = kept_by_definition(logits, floor, centre, share);
                    assert_eq!(kept, expected, "case {case}, share {share}, floor {floor}, centre {centre}");
                }
            }
        }
    }
}

#[test]
fn a_share_of_one_keeps_all_above_the_floor() {
    let logits = row(5.0, 1);
    assert_eq!(window(&logits, 1.5, 3.0, 1.0, InstructionSet::best()), [1.5, f32::INFINITY]);
}

#[test]
fn the_kth_largest_is_that_of_a_sorted_row() {
    for set in InstructionSet::available() {
        for logits in rows() {
            let mut sorted = logits.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for k in [1, 2, 50, 1025, SIZE] {
                let mut found = [0.0];
                kth_largest(Rows::contiguous(&logits, SIZE), &[k as i64], &mut found, set).unwrap();
                assert_eq!(found[0], sorted[k - 1]);
            }
        }
    }
}

#[test]
fn k_of_zero_or_more_than_there_are_cuts_nothing() {
    let logits = [1.0, 2.0, f32::NEG_INFINITY, 3.0];
    for k in [0, -1, 4, 5] {
        let mut found = [0.0];
        kth_largest(Rows::contiguous(&logits, 4), &[k], &mut found, InstructionSet::best()).unwrap();
        assert_eq!(found[0], f32::NEG_INFINITY);
    }
}

#[test]
fn the_mean_is_that_of_the_softmax_above_the_floor() {
    for set in InstructionSet::available() {
        for logits in rows() {
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for floor in [f32::NEG_INFINITY, best - 2.0] {
                let kept = || logits.iter().filter(|logit| **logit >= floor && logit.is_finite());
                let mass: f64 = kept().map(|logit| f64::from(logit - best).exp()).sum();
                let mean: f64 = kept().map(|logit| f64::from(*logit) * f64::from(logit - best).exp()).sum();
                let mut found = [0.0];
                mean_logit(Rows::contiguous(&logits, SIZE), &[floor], &mut found, set).unwrap();
                let error = (f64::from(found[0]) - mean / mass).abs();
                // float32 in and out, `exp` within two units in the last place.
                assert!(error <= 1e-6 * (1.0 + (mean / mass).abs()), "{} {}", found[0], mean / mass);
            }
        }
    }
}

#[test]
fn counts_that_do_not_fit_are_refused_by_name() {
    let logits = [1.0, 2.0];
    let rows = || Rows::contiguous(&logits, 1);
    let error = mass_window(rows(), &[0.0], &[0.0; 2], &[0.5; 2], &mut [[0.0; 2]; 2], InstructionSet::best());
    assert!(error.unwrap_err().to_string().contains("`floors`"));
    let error = kth_largest(rows(), &[1], &mut [0.0; 2], InstructionSet::best());
    assert!(error.unwrap_err().to_string().contains("`ks`"));
}

#[test]
fn what_lies_outside_of_a_window_cannot_be_chosen_and_the_rest_stays() {
    for set in InstructionSet::available() {
        for original in rows() {
            let (low, high) = (original[3], original[3].max(original[8]));
            let mut logits = original.repeat(2);
            let (lows, highs) = ([low, f32::NEG_INFINITY], [high, f32::INFINITY]);
            keep_window(&RowsMut::contiguous(&mut logits, SIZE), &lows, &highs, set).unwrap();
            for (kept, logit) in logits.iter().zip(&original) {
                assert_eq!(*kept, if (low..=high).contains(logit) { *logit } else { f32::NEG_INFINITY });
            }
            assert_eq!(logits[SIZE..], original);
        }
    }
}
