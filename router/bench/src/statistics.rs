//! Percentiles, as numpy's default has them (linear between the two nearest), so that they compare with others' tools.

use crate::report::Distribution;

/// Of values in microseconds, which are sorted for it; the distribution is in milliseconds. None of nothing.
pub(crate) fn distribution(values_us: &mut [u32]) -> Option<Distribution> {
    values_us.sort_unstable();
    let (max, count) = (*values_us.last()?, values_us.len());
    let sum: u64 = values_us.iter().map(|&value| u64::from(value)).sum();
    let ms = |us: f64| us / 1e3;
    Some(Distribution {
        count: count as u64,
        mean: ms(sum as f64 / count as f64),
        p50: ms(percentile(values_us, 50.0)),
        p90: ms(percentile(values_us, 90.0)),
        p95: ms(percentile(values_us, 95.0)),
        p99: ms(percentile(values_us, 99.0)),
        max: ms(f64::from(max)),
    })
}

/// `sorted` is not empty.
pub(crate) fn percentile(sorted: &[u32], percent: f64) -> f64 {
    let place = (sorted.len() - 1) as f64 * percent / 100.0;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    f64::from(below) + (f64::from(above) - f64::from(below)) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
    }

    #[test]
    fn percentiles_lie_between_neighbours_as_numpys() {
        // numpy.percentile([1000, 2000, 3000, 4000, 10000], [50, 90, 95, 99]) = 3000, 7600, 8800, 9760
        let found = distribution(&mut [10_000, 1_000, 4_000, 2_000, 3_000]).unwrap();
        assert_eq!(found.count, 5);
        for (value, expected) in [
            (found.mean, 4.0),
            (found.p50, 3.0),
            (found.p90, 7.6),
            (found.p95, 8.8),
            (found.p99, 9.76),
            (found.max, 10.0),
        ] {
            close(value, expected);
        }
    }

    #[test]
    fn of_a_hundred_and_one_values_the_percentiles_are_values() {
        let mut values: Vec<u32> = (0..=100).rev().map(|value| value * 1_000).collect();
        let found = distribution(&mut values).unwrap();
        close(found.p50, 50.0);
        close(found.p99, 99.0);
    }

    #[test]
    fn one_value_is_every_percentile_and_nothing_has_none() {
        let found = distribution(&mut [7_000]).unwrap();
        close(found.p50, 7.0);
        close(found.p99, 7.0);
        assert!(distribution(&mut []).is_none());
    }
}
